"""The compact model with its matrices in compressed rows, run on sparse kernels where they win on this machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from smpcli.export.checking import check
from smpcli.export.compact import beside, describe, exported, shrink_run
from smpcli.export.formats import FULL, Exported
from smpcli.export.loading import ABOUT, TENSORS
from smpcli.files import write_json
from smpcli.modeling.compact import ROLES, CompactModel
from smpcli.modeling.sparse import SparseModel
from smpcli.training.recompute import Reopened

SUFFIX = "-sparse"
_PARTS = ("values", "columns", "starts", "width")


def write(run: Reopened, target: Path, drop_rows_below: int = 0, precision: str = FULL) -> Exported:
    """Measure which matrices are faster sparse, write the folder, verify it in a new process, put it in place."""
    with beside(target) as folder:
        parts = shrink_run(run, drop_rows_below)
        model = SparseModel(CompactModel(parts.architecture, parts.tensors))
        model.choose(None)
        choices = model.choices()
        about = {**describe(run, parts, "sparse", precision), "machine": machine(), "sparse_at": choices}
        save_file(compress(parts.tensors), folder / TENSORS)
        write_json(folder / ABOUT, about)
        run.tokenizer.save_pretrained(folder)
        checked = check(run, folder, run.model)
        write_json(folder / ABOUT, {**about, "metrics": checked.metrics, "max_difference": checked.difference})
    made = exported(run, target, "sparse", checked, parts)
    count = sum(len(block) for block in choices)
    won = sum(any(tokens) for block in choices for tokens in block.values())
    remark = f"{won} of {count} matrices are faster as sparse ones at some number of tokens, on this machine"
    return Exported(**{**vars(made), "remarks": (*made.remarks, remark)})


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
    """The inverse of `compress`. Raises KeyError, IndexError or RuntimeError for parts that don't fit each other."""
    made = {name: tensor for name, tensor in tensors.items() if not name.endswith(tuple(f".{p}" for p in _PARTS))}
    for name in [name.removesuffix(".starts") for name in tensors if name.endswith(".starts")]:
        values, columns, starts, width = (tensors[f"{name}.{part}"] for part in _PARTS)
        weight = values.new_zeros(len(starts) - 1, int(width))
        rows = torch.repeat_interleave(torch.arange(len(weight)), starts.diff().long())
        weight[rows, columns.long()] = values
        made[name] = weight
    return made


def _is_matrix(name: str) -> bool:
    return name.startswith("blocks.") and name.endswith(tuple(f".{role}.weight" for role in ROLES))
