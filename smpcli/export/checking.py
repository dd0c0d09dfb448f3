"""Verifying what was written: loaded in a new process, run over the whole dev data, compared with the run's model."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smpcli.errors import UserError, one_line
from smpcli.export.formats import TOLERANCE
from smpcli.tasks.metrics import compute
from smpcli.training.batches import evaluation_order
from smpcli.training.evaluate import EVALUATION_BATCH, predictions_of
from smpcli.training.recompute import Reopened


@dataclass(frozen=True)
class Checked:
    """metrics: of the export, over the dev data. difference: largest between its logits and the reference's."""

    metrics: dict[str, float]
    difference: float
    examples: int


def check(run: Reopened, path: Path, reference: nn.Module, tolerance: float | None = TOLERANCE) -> Checked:
    """Load `path` in a new process and compare its logits with those of `reference`, a model in memory.

    Raises UserError when they differ by more than `tolerance` (None: by any amount).
    """
    task = run.settings.task
    metrics: dict[str, float] = {}
    worst, count = 0.0, 0
    with tempfile.TemporaryDirectory(prefix="smp-check-") as scratch:
        order: dict[str, list[list[int]]] = {}
        for split, encoded in run.dev.items():
            order[split] = evaluation_order(encoded, EVALUATION_BATCH)
            for number, indices in enumerate(order[split]):
                save_file(encoded.collate(indices)[0], Path(scratch) / f"{split}-{number}.inputs")
        _run_child(path, scratch)
        for number, (split, encoded) in enumerate(run.dev.items()):
            logits = torch.zeros(len(encoded), 0)
            for part, indices in enumerate(order[split]):
                inputs = load_file(Path(scratch) / f"{split}-{part}.inputs")
                found = load_file(Path(scratch) / f"{split}-{part}.logits")["logits"]
                worst = max(worst, _difference(found, reference, inputs))
                if not logits.shape[1]:
                    logits = torch.zeros(len(encoded), found.shape[1])
                logits[indices] = found
            values = compute(task.metrics, predictions_of(logits, task.kind == "regression"), encoded.labels.tolist())
            metrics |= {name if number == 0 else f"{name}_{split}": value for name, value in values.items()}
            count += len(encoded)
    if tolerance is not None and not worst <= tolerance:
        raise UserError(
            f"export refused: its logits differ from the run's by {worst:.2e}, more than {tolerance:g}; "
            "`smp eval` on the run tells whether the run itself is sound"
        )
    return Checked(metrics, worst, count)


@torch.no_grad()
def _difference(found: Tensor, reference: nn.Module, inputs: dict[str, Tensor]) -> float:
    return float((found - reference(**inputs).float()).abs().max())


def _run_child(path: Path, scratch: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "smpcli.export.checking", str(path), scratch],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the export doesn't load in a new process: {one_line(done.stderr[-2000:], 2000)}")


def main(path: str, scratch: str) -> None:
    """In the new process: the logits of every batch."""
    from smpcli.export.loading import load_export

    model = load_export(Path(path))
    for file in sorted(Path(scratch).glob("*.inputs")):
        save_file({"logits": model(load_file(file)).contiguous()}, file.with_suffix(".logits"))


if __name__ == "__main__":
    main(*sys.argv[1:])
