"""Smaller dense matrices of the same function: what an unstructured mask has made superfluous is cut out."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from smpcli.export.checking import Checked, check
from smpcli.export.formats import FULL, TOLERANCE, Exported
from smpcli.export.loading import ABOUT, FORMAT, TENSORS, VERSION
from smpcli.export.stock import require_supported, take_apart
from smpcli.files import cannot_write, write_json
from smpcli.modeling.compact import Architecture
from smpcli.modeling.layers import find_prunable
from smpcli.training.recompute import Reopened

SUFFIX = "-compact"


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
    with beside(target) as folder:
        parts = shrink_run(run, drop_rows_below)
        about = describe(run, parts, "torch", precision)
        tensors = parts.tensors
        if precision == "bf16":
            tensors = {name: t.bfloat16() if t.is_floating_point() else t for name, t in tensors.items()}
        save_file(tensors, folder / TENSORS)
        write_json(folder / ABOUT, about)
        run.tokenizer.save_pretrained(folder)
        checked = check(run, folder, run.model, TOLERANCE if precision == FULL else None)
        write_json(folder / ABOUT, {**about, "metrics": checked.metrics, "max_difference": checked.difference})
    return exported(run, target, "compact", checked, parts)


def shrink_run(run: Reopened, drop_rows_below: int) -> Parts:
    """Take the run's model apart; its own matrices lose the rows that are to be dropped."""
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


def describe(run: Reopened, parts: Parts, runtime: str, precision: str) -> dict[str, Any]:
    """What compact.json says: how to build the model, where it comes from, and what was measured."""
    result = run.directory.result
    return {
        "format": FORMAT,
        "version": VERSION,
        "runtime": runtime,
        "precision": precision,
        "task": run.settings.task.name,
        "kind": run.settings.task.kind,
        "labels": run.labels,
        "max_length": run.settings.max_length,
        "model": run.settings.model,
        "method": run.settings.pruner.name,
        "run": run.directory.path.resolve().name,
        "sparsity": 1 - parts.kept / parts.dense_area,
        "area": parts.area / parts.dense_area,
        "dropped_rows": parts.dropped_rows,
        "metric": result.metric,
        "metrics_of_run": result.metrics,
        "architecture": dataclasses.asdict(parts.architecture),
    }


def exported(run: Reopened, target: Path, format: str, checked: Checked, parts: Parts) -> Exported:
    result = run.directory.result
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    before, after = result.metrics[result.metric], checked.metrics[result.metric]
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
    else:
        remarks.append(f"{result.metric} {after:.4f}, recomputed in a new process; the run's {before:.4f}")
    return Exported(target, format, size, checked.difference, checked.examples, about, tuple(remarks))


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when all went well, and is gone when not."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        folder = scratch / "export"
        folder.mkdir()
        yield folder
        for path in folder.iterdir():
            path.chmod(0o644)
        if target.exists():
            shutil.rmtree(target)
        folder.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
