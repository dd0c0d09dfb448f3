"""The compact model with its matrices in compressed rows, run on sparse kernels where they win on this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pruners.masks.architectures import ROLES
from smpcli.evaluation.recompute import Reopened
from smpcli.export.about import format_of, read_about
from smpcli.export.compact import (
    TENSORS,
    VERSION,
    build,
    describe_and_verify,
    details,
    exported,
    folder_for,
    read_details,
    shrink_run,
)
from smpcli.export.formats import FULL, Exported
from smpcli.export.ready import Ready
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.compact_model import CompactModel
from smpcli.modeling.sparse_model import SparseModel

SUFFIX = "-sparse"
FORMAT = "sparse"
# A stored weight takes 6 bytes, and more than one of 1,000 is left: larger matrices aren't from an export.
MOST_TIMES, SLACK_BYTES = 1_000, 2**26
_PARTS = ("values", "columns", "starts", "width")


def write(run: Reopened, target: Path, drop_rows_below: int = 0, precision: str = FULL) -> Exported:
    """Measure which matrices are faster sparse, write the folder, verify it in a new process, put it in place."""
    with folder_for(target) as folder:
        parts = shrink_run(run, drop_rows_below)
        model = SparseModel(CompactModel(parts.architecture, parts.tensors))
        model.choose(None)
        choices = model.choices()
        save_file(compress(parts.tensors), folder / TENSORS)
        found = {**details(parts, precision), "machine": machine(), "choices": choices}
        verified = describe_and_verify(run, folder, FORMAT, found)
        made = exported(run, target, folder, FORMAT, verified, parts)
    count = sum(len(block) for block in choices["matrices"])
    won = sum(bool(tokens) for block in choices["matrices"] for tokens in block.values())
    where = ", ".join(map(str, choices["columns"]))
    whole = f"the whole model is faster than the compact one at {where} tokens" if where else "the compact one wins"
    remark = f"{won} of {count} matrices are faster as sparse ones at some number of tokens, on this machine; {whole}"
    return Exported(**{**vars(made), "remarks": (*made.remarks, remark)})


def is_one(path: Path) -> bool:
    return path.is_dir() and format_of(path) == FORMAT


def load(path: Path, model: str | None = None) -> Ready:
    """The folder's own model; it needs no base, so `model` changes nothing."""
    about = read_about(path, FORMAT, VERSION)
    return Ready.of(about, load_model(path), load_tokenizer(path))


def load_model(path: Path) -> SparseModel:
    """The module alone, with the export's choices where it was made on a machine like this one, else new ones."""
    found = read_details(path)
    made = SparseModel(build(path, found, expand))
    made.choose(found.get("choices") if found.get("machine") == machine() else None)
    return made


def machine() -> str:
    """What measurements depend on; another machine measures for itself when it loads the export."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def compress(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks' matrices NAME as NAME.values, .columns (int16 where that fits), .starts (of rows) and .width."""
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not _is_matrix(name):
            made[name] = tensor
            continue
        rows, columns = tensor.nonzero(as_tuple=True)
        small = torch.int16 if tensor.shape[1] <= torch.iinfo(torch.int16).max else torch.int32
        counts = torch.bincount(rows, minlength=len(tensor))
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()
        parts = (tensor[rows, columns], columns.to(small), starts, torch.tensor([tensor.shape[1]], dtype=torch.int32))
        made |= {f"{name}.{part}": value for part, value in zip(_PARTS, parts, strict=True)}
    return made


def expand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `compress`. Raises KeyError, IndexError, ValueError or RuntimeError for parts that don't fit."""
    made = {name: tensor for name, tensor in tensors.items() if not name.endswith(tuple(f".{p}" for p in _PARTS))}
    names = [name.removesuffix(".starts") for name in tensors if name.endswith(".starts")]
    stored = sum(tensor.nbytes for tensor in tensors.values())
    needed = sum(4 * len(tensors[f"{name}.starts"]) * abs(int(tensors[f"{name}.width"])) for name in names)
    if needed > MOST_TIMES * stored + SLACK_BYTES:
        raise ValueError(f"matrices of {needed:,} bytes in a file of {stored:,}")
    for name in names:
        values, columns, starts, width = (tensors[f"{name}.{part}"] for part in _PARTS)
        counts = starts.diff().long()
        fits = int(starts[0]) == 0 and bool((counts >= 0).all()) and int(starts[-1]) == len(values) == len(columns)
        if not fits:
            raise ValueError(f"the rows of {name} aren't those of its values")
        weight = values.new_zeros(len(counts), int(width))
        rows = torch.repeat_interleave(torch.arange(len(counts)), counts)
        weight[rows, columns.long()] = values
        made[name] = weight
    return made


def _is_matrix(name: str) -> bool:
    return name.startswith("blocks.") and name.endswith(tuple(f".{role}.weight" for role in ROLES))
