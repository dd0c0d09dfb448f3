"""Recomputing a finished run's metrics from its directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError
from smpcli.results.rundir import RunDir

if TYPE_CHECKING:
    from smpcli.modeling.heads import TaskModel
    from smpcli.settings import Settings
    from smpcli.tasks.data import Examples
    from smpcli.training.batches import Encoded


@dataclass(frozen=True)
class Recomputed:
    """metrics: computed now; recorded: what result.json says."""

    path: Path
    metrics: dict[str, float]
    recorded: dict[str, float]

    @property
    def agrees(self) -> bool:
        """True when every metric is the recorded one to the last digit."""
        return self.metrics == self.recorded


@dataclass(frozen=True)
class Reopened:
    """A finished run in memory again: the pruned model, and its dev data as it was then, as tokens and as texts."""

    directory: RunDir
    settings: Settings
    labels: list[str]
    model: TaskModel
    tokenizer: Any
    dev: dict[str, Encoded]
    examples: dict[str, Examples]


def reopen(path: Path, data_dir: Path | None = None) -> Reopened:
    """Load a finished run; the data must be those that it was trained and measured on."""
    from smpcli.modeling.restore import restore
    from smpcli.settings import resolve
    from smpcli.tasks.data import load_data
    from smpcli.training.batches import encode

    directory = RunDir.open(path)
    settings = resolve(flags={**directory.settings, **({"data_dir": str(data_dir)} if data_dir else {})})
    data = load_data(
        settings.task,
        Path(settings.data_dir) if settings.data_dir else None,
        dev_file=Path(settings.dev_file) if settings.dev_file else None,
    )
    if data.digest != directory.result.data.digest:
        raise UserError(
            f"the data of '{settings.task.name}' ({data.origin}) differ from those of {path} "
            f"({directory.result.data.origin}): name the right folder with --data-dir"
        )
    model, tokenizer = restore(directory, settings, data.labels)
    regression = settings.task.kind == "regression"
    dev = {split: encode(tokenizer, part, settings.max_length, regression) for split, part in data.dev.items()}
    return Reopened(directory, settings, data.labels, model, tokenizer, dev, data.dev)


def recompute(path: Path, data_dir: Path | None = None) -> Recomputed:
    """The metrics of a finished run, computed anew on its dev data."""
    import torch

    from smpcli.training.evaluate import evaluate

    run = reopen(path, data_dir)
    task = run.settings.task
    found = evaluate(run.model, run.dev, task.metrics, task.kind == "regression", torch.device("cpu"))
    return Recomputed(run.directory.path, found.metrics, dict(run.directory.result.metrics))
