"""Verifying an export: a new process loads it, gets texts, and its logits and metric are compared with the run's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor

from smpcli.encoding.batches import evaluation_order
from smpcli.errors import UserError, one_line
from smpcli.evaluation.evaluate import evaluate_logits
from smpcli.files import WriteError, cannot_write, refusal
from smpcli.kinds import KINDS

if TYPE_CHECKING:
    from smpcli.evaluation.recompute import Reopened

# Largest difference of logits that an export may have: of logits above 1, this part of the largest, as 32 bits are
# exact to no more.
TOLERANCE = 1e-5
# The metric takes all dev examples; logits are compared on about this many, spread over all lengths.
COMPARED_EXAMPLES = 1024


@dataclass(frozen=True)
class Verified:
    """metric: the task's first metric, of the export on the whole dev set; recorded: the run's; metrics: all of them.

    difference: largest difference between the export's logits and the run's, over `examples` dev examples (of a span
    task: windows of them).
    """

    metric: float
    recorded: float
    metrics: dict[str, float]
    difference: float
    examples: int


def verify(path: Path, run: Reopened, tolerance: float | None = TOLERANCE, code: str | None = None) -> Verified:
    """Load an export (file or folder) in a new process, give it the dev set's texts, and compare what it says.

    tolerance: largest difference of logits (of logits above 1: this part of the largest); None where an export is
    meant to differ, and is only measured.
    code: Python that does what `reload.py` does, for formats that must load without smp: it runs isolated, with
    the export and the scratch folder as arguments.
    Raises UserError when the difference exceeds the tolerance or isn't finite; RuntimeError when it doesn't load.
    """
    with tempfile.TemporaryDirectory(prefix="smp-verify-") as name:
        scratch = Path(name)
        orders = {split: evaluation_order(encoded) for split, encoded in run.dev.items()}
        _write_questions(run, orders, scratch, plain=code is not None)
        _run_process(path, scratch, code)
        found = load_file(scratch / "logits.safetensors")
    logits = {split: _in_data_order(found[split].float(), orders[split]) for split in orders}
    task, result = run.settings.task, run.directory.result
    difference, largest, examples = _difference(run, logits, orders)
    if tolerance is not None and not difference <= tolerance * max(1.0, largest):
        raise UserError(
            f"export refused: its logits differ from the run's by {difference:.2e}, more than {tolerance:g}",
            "`smp eval` on the run tells whether the run itself is sound",
        )
    metrics = evaluate_logits(logits, run.dev, task.metrics, task.kind).metrics
    return Verified(metrics[result.metric], result.value, metrics, difference, examples)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a path of the same name in a new folder beside `target`; what is written there becomes `target`.

    On any error nothing is left, and what was at `target` is still there. Raises UserError where it can't be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        fresh = scratch / target.name
        yield fresh
        if target.is_dir():
            target.replace(scratch / "old")
        fresh.replace(target)
    except Exception as error:
        # What writes a file says where: here that is a folder which nobody has heard of, and which goes again.
        if isinstance(error, WriteError) and error.path.is_relative_to(scratch):
            raise WriteError(target, error.reason, error.remedy) from error
        if (refused := refusal(error)) is None:
            raise
        raise cannot_write(target, refused) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def _write_questions(run: Reopened, orders: dict[str, list[list[int]]], scratch: Path, plain: bool) -> None:
    """Texts, not tokens: the export's own tokenizer is part of it. Batches are of examples, of spans of windows.

    plain: the texts as a tokenizer takes them that knows nothing of what smp does with them.
    """
    splits = {}
    for split, batches in orders.items():
        kind, rows = KINDS[run.settings.task.kind], run.rows[split]
        texts, pairs = kind.plain_texts(run.tokenizer, rows) if plain else kind.texts(rows)
        splits[split] = {"texts": texts, "pairs": pairs, "batches": batches}
    (scratch / "questions.json").write_text(json.dumps(splits), encoding="utf-8")


def _run_process(path: Path, scratch: Path, code: str | None) -> None:
    # -I: neither the current folder nor PYTHONPATH, so that a stranger's process is what it looks like.
    # -P: not the current folder either, but this smp, wherever it lies.
    how = ["-I", "-c", code] if code else ["-P", "-m", "smpcli.export.reload"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(part).absolute()) for part in sys.path)}
    done = subprocess.run(
        [sys.executable, *how, str(path.absolute()), str(scratch)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the export doesn't load in a new process:\n{done.stderr}")


def _in_data_order(logits: Tensor, order: list[list[int]]) -> Tensor:
    return logits[torch.tensor([index for batch in order for index in batch]).argsort()]


@torch.no_grad()
def _difference(
    run: Reopened, logits: dict[str, Tensor], orders: dict[str, list[list[int]]]
) -> tuple[float, float, int]:
    """Largest difference of logits (NaN if any is), largest of the run's logits, and over how many examples."""
    difference, largest, examples = torch.zeros(()), torch.zeros(()), 0
    for split, batches in orders.items():
        for batch in batches[:: max(1, len(batches) * run.dev[split].evaluation_batch // COMPARED_EXAMPLES)]:
            inputs, _ = run.dev[split].collate(batch)
            found, expected = logits[split][batch], run.model(**inputs).float()
            if run.settings.task.traits.every_token:
                # Neither what was padded here counts nor what was padded there.
                real = inputs["attention_mask"][:, None].bool()
                found, expected = found[..., : real.shape[-1]], expected.where(real, 0)
                found = found.where(real, 0) if found.shape[-1] == real.shape[-1] else found
            if found.shape != expected.shape:
                raise RuntimeError(one_line(f"the export gives logits of another shape: {logits[split].shape}"))
            difference = torch.maximum(difference, (found - expected).abs().max())
            largest = torch.maximum(largest, expected.abs().max())
            examples += len(batch)
    return float(difference), float(largest), examples
