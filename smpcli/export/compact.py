"""Smaller dense matrices of the same function: what an unstructured mask has made superfluous is cut out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smpcli.errors import UserError, one_line
from smpcli.evaluation.recompute import Reopened
from smpcli.export import about as descriptions
from smpcli.export.formats import FULL, Exported
from smpcli.export.ready import Ready
from smpcli.export.stock import require_supported, take_apart
from smpcli.export.tokenizer import save_tokenizer
from smpcli.export.verify import TOLERANCE, Verified, size_of, staged, verify
from smpcli.files import write_json
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.compact_model import Architecture, CompactModel
from smpcli.modeling.layers import find_prunable

SUFFIX = "-compact"
FORMAT = "compact"
VERSION = 1
# Beside what every export says of itself: how the model is built.
DETAILS, TENSORS = "compact.json", "model.safetensors"

# What a stranger's numbers and tensors make of building and computing.
_MISFITS = (SafetensorError, LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Parts:
    """A shrunk model, taken apart.

    kept: weights that aren't zero; area: elements of its blocks' matrices; dense_area: of the unpruned model's.
    """

    architecture: Architecture
    tensors: dict[str, Tensor]
    kept: int
    area: int
    dense_area: int
    dropped_rows: int


def write(run: Reopened, target: Path, drop_rows_below: int = 0, precision: str = FULL) -> Exported:
    """Write the folder, verify it in a new process, put it in place.

    drop_rows_below: also drop rows of fewer kept weights than this, which changes the function. Verified is then that
    the export computes what the stock model computes without those rows; what they cost is the metric's change.
    precision "bf16": computed and stored in bfloat16, so logits differ; that, too, shows in the metric.
    """
    with folder_for(target) as folder:
        parts = shrink_run(run, drop_rows_below)
        tensors = parts.tensors
        if precision == "bf16":
            tensors = {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors.items()}
        save_file(tensors, folder / TENSORS)
        verified = describe_and_verify(run, folder, FORMAT, details(parts, precision))
        return exported(run, target, folder, FORMAT, verified, parts)


def is_one(path: Path) -> bool:
    return path.is_dir() and descriptions.format_of(path) == FORMAT


def load(path: Path, model: str | None = None) -> Ready:
    """The folder's own model; it needs no base, so `model` changes nothing."""
    about = descriptions.read_about(path, FORMAT, VERSION)
    return Ready.of(about, load_model(path), load_tokenizer(path))


def load_model(path: Path) -> CompactModel:
    """The module alone, without the tokenizer. Raises UserError for a damaged export."""
    return build(path, read_details(path), lambda tensors: tensors)


def build(
    path: Path, found: dict[str, Any], expand: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> CompactModel:
    """The model of a folder; expand: from tensors as they are stored. Raises UserError for parts that don't fit."""
    try:
        tensors = load_file(path / TENSORS)
        model = CompactModel(Architecture.from_json(found["architecture"]), expand(tensors))
        # What doesn't fit shows when it is computed with: now, not at the first text.
        model(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.long))
        return model
    except FileNotFoundError:
        raise UserError(f"damaged export {path}: {TENSORS} is missing") from None
    except _MISFITS as error:
        raise UserError(
            one_line(f"damaged export {path}: {TENSORS} and {DETAILS} don't fit each other ({error})"),
            "export it again",
        ) from error


def read_details(folder: Path) -> dict[str, Any]:
    """compact.json. Raises UserError where it isn't there or damaged."""
    try:
        if (folder / DETAILS).stat().st_size > descriptions.MOST_BYTES:
            raise UserError(f"damaged export {folder}: {DETAILS} is too large")
        found = json.loads((folder / DETAILS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"damaged export {folder}: {DETAILS} is missing") from None
    except (ValueError, RecursionError):
        raise UserError(f"damaged export {folder}: {DETAILS} isn't JSON") from None
    except OSError as error:
        raise UserError(f"can't read {folder / DETAILS}: {error.strerror or error}") from error
    if not isinstance(found, dict):
        raise UserError(f"damaged export {folder}: {DETAILS} isn't a JSON object")
    metrics = found.get("metrics", {})
    shown = [found.get("sparsity", 0.0), *(metrics.values() if isinstance(metrics, dict) else [metrics])]
    if not all(type(number) in (int, float) and abs(number) < math.inf for number in shown):
        raise UserError(f"damaged export {folder}: in {DETAILS}, sparsity and metrics must be finite numbers")
    return found


def shrink_run(run: Reopened, drop_rows_below: int) -> Parts:
    """Take the run's model apart; its own matrices lose the rows that are to be dropped."""
    if (task := run.settings.task).traits.every_token:
        raise UserError(
            f"a {task.kind} task can't be made compact, which reads one token a text", "use --format hf or mask"
        )
    require_supported(run.model.config)
    matrices = [matrix.module for matrix in find_prunable(run.model.backbone, run.model.config)]
    dropped = sum(_drop_rows(matrix.weight.data, drop_rows_below) for matrix in matrices)
    architecture, tensors, area = take_apart(run.model)
    kept = sum(int((matrix.weight != 0).sum()) for matrix in matrices)
    return Parts(architecture, tensors, kept, area, sum(matrix.weight.numel() for matrix in matrices), dropped)


def _drop_rows(weight: Tensor, below: int) -> int:
    """Zero rows (of (out, in)) that hold at least one but fewer than `below` weights; returns how many."""
    kept = (weight != 0).sum(1)
    thin = (kept > 0) & (kept < below)
    weight[thin] = 0
    return int(thin.sum())


def details(parts: Parts, precision: str) -> dict[str, Any]:
    """What compact.json says: how to build the model, and how small it is."""
    return {
        "precision": precision,
        "sparsity": 1 - parts.kept / parts.dense_area,
        "area": parts.area / parts.dense_area,
        "dropped_rows": parts.dropped_rows,
        "architecture": dataclasses.asdict(parts.architecture),
    }


def describe_and_verify(
    run: Reopened, folder: Path, format: str, found: dict[str, Any], inputs: Sequence[str] | None = None
) -> Verified:
    """Write the tokenizer and the descriptions beside the model, verify all of it, and write what that found.

    inputs: what the model takes, where that may be less than what the run's tokenizer makes.
    """
    write_json(folder / DETAILS, found)
    descriptions.write_about(folder, descriptions.describe(run, format, VERSION))
    save_tokenizer(run, folder, inputs)
    verified = verify(folder, run, TOLERANCE if found["precision"] == FULL else None)
    write_json(folder / DETAILS, {**found, "metrics": verified.metrics, "max_difference": verified.difference})
    return verified


def exported(run: Reopened, target: Path, folder: Path, format: str, verified: Verified, parts: Parts) -> Exported:
    """What there is to say of an export that lies in `folder` and will lie at `target`."""
    result = run.directory.result
    before, after = result.metrics[result.metric], verified.metrics[result.metric]
    area = parts.area / parts.dense_area
    about = {
        "metric": result.metric,
        "before": before,
        "after": after,
        "area": area,
        "dropped_rows": parts.dropped_rows,
    }
    remarks = [
        f"{area:.1%} of the dense matrices' area is left, for {parts.kept / parts.dense_area:.2%} of the weights"
    ]
    if parts.dropped_rows:
        remarks.append(
            f"dropped {parts.dropped_rows:,} thin rows: {result.metric} {before:.4f} before, {after:.4f} after"
        )
    return Exported(target, format, size_of(folder), verified, about, tuple(remarks))


@contextmanager
def folder_for(target: Path) -> Iterator[Path]:
    """As `staged`, with a folder that is there already, whose files everybody may read."""
    with staged(target) as folder:
        folder.mkdir()
        yield folder
        for path in folder.iterdir():
            path.chmod(0o644)
