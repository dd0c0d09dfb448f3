"""Recomputing a finished run's metrics from its directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError
from smpcli.runs.rundir import RunDir

if TYPE_CHECKING:
    from smpcli.encoding.batches import Encoded
    from smpcli.encoding.cut import Cut
    from smpcli.modeling.heads import TaskModel
    from smpcli.settings import Settings
    from smpcli.tasks.data import DevData, Rows


# A run that was trained on them took these texts, so something beside it isn't what it was.
CHANGED = "the tokenizer, or the model, isn't what it was in the run"


@dataclass(frozen=True)
class Recomputed:
    """metrics: computed now, of the dev sets that are at hand; recorded: what result.json says.

    cut: what the texts of each dev set lose that are longer than the task's length; warnings: what is odd about the
    predictions.
    """

    path: Path
    metrics: dict[str, float]
    recorded: dict[str, float]
    warnings: list[str]
    cut: dict[str, Cut] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what is odd about the dev rows, a line each

    @property
    def agrees(self) -> bool:
        """True when every metric that was computed is the recorded one to the last digit."""
        return all(self.recorded.get(name) == value for name, value in self.metrics.items())

    @property
    def left_out(self) -> list[str]:
        """Recorded metrics of dev sets that aren't at hand."""
        return [name for name in self.recorded if name not in self.metrics]


@dataclass(frozen=True)
class Reopened:
    """A finished run in memory again: the pruned model, and its dev data as it was then, as tokens and as rows."""

    directory: RunDir
    settings: Settings
    labels: list[str]
    model: TaskModel
    tokenizer: Any
    dev: dict[str, Encoded]
    rows: dict[str, Rows]
    overlap: dict[str, int]  # dev texts that were trained on, where those are at hand


def reopen(path: Path, data_dir: Path | None = None) -> Reopened:
    """Load a finished run; the dev data must be those that it was measured on.

    data_dir: folder of the original files; for a run on files of one's own, the folder where they are now.
    """
    from smpcli.encoding.batches import check_encoded
    from smpcli.evaluation.restore import restore
    from smpcli.kinds.rows import encode_rows
    from smpcli.modeling.backbone import load_config
    from smpcli.modeling.limits import limits_of

    directory = RunDir.open(path)
    settings, data = _settings_and_data(directory, data_dir)
    with _needed(f"{path} needs its base model again", "put it back, or see that the Hugging Face hub answers"):
        load_config(settings.run.model)
    model, tokenizer = restore(directory, settings, data.labels)
    dev = {split: encode_rows(tokenizer, part, settings) for split, part in data.dev.items()}
    first = next(iter(dev.values()))
    check_encoded(limits_of(model, first.columns), dev.values(), CHANGED)
    return Reopened(directory, settings, data.labels, model, tokenizer, dev, data.dev, data.overlap)


def _settings_and_data(directory: RunDir, data_dir: Path | None) -> tuple[Settings, DevData]:
    """A run's settings and dev data. Raises `UserError` that names what has moved or changed since."""
    from smpcli.runs import sources
    from smpcli.settings import resolve
    from smpcli.tasks.data import load_dev

    recorded = directory.result.data
    flags = dict(directory.settings)
    files = recorded.files
    if files and data_dir:
        moved = {name: str(data_dir.absolute() / Path(name).name) for name in files}
        files = {moved[name]: state for name, state in files.items()}
        flags |= {key: moved[flags[key]] for key in ("task", "dev_file") if flags.get(key) in moved}
    elif data_dir:
        flags["data_dir"] = str(data_dir)
    gone, changed = sources.changes(files)
    if gone:
        raise UserError(
            f"{gone[0]}, which {directory.path} was made from, is gone",
            "put it back, or name the folder where it is now with --data-dir",
        )
    try:
        with _needed(f"{directory.path}, settings.yaml"):
            settings = resolve(flags=flags)
        with _needed(f"{directory.path} needs its data again", "name the folder that holds them with --data-dir"):
            data = load_dev(settings.task, _path(settings.run.data_dir), dev_file=_path(settings.run.dev_file))
    except UserError as error:
        raise _changed(changed[0], directory) if changed else error from None
    if data.digest != recorded.digest if data.digest else not data.digests.items() <= recorded.dev_digests.items():
        if changed:
            raise _changed(changed[0], directory)
        raise UserError(
            f"the data of '{settings.task.name}' ({data.origin}) differ from those of {directory.path} "
            f"({recorded.origin})",
            "name the right folder with --data-dir",
        )
    return settings, data


def _changed(file: str, directory: RunDir) -> UserError:
    return UserError(
        f"{file} has changed since {directory.path} was made from it",
        "restore what it held, or name a folder that holds it as it was with --data-dir",
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None


@contextmanager
def _needed(what: str, remedy: str | None = None) -> Iterator[None]:
    """Errors about what a run names, said of the run; remedy: where theirs is one for `smp prune` alone."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error.problem}", error.remedy if remedy is None else remedy) from error


def recompute(path: Path, data_dir: Path | None = None) -> Recomputed:
    """The metrics of a finished run, computed again on its dev data."""
    import torch

    from smpcli.evaluation.evaluate import evaluate
    from smpcli.tasks.describe import overlap_lines

    run = reopen(path, data_dir)
    task = run.settings.task
    found = evaluate(run.model, run.dev, task.metrics, task.kind, torch.device("cpu"))
    recorded = dict(run.directory.result.metrics)
    cut = {split: part.cut for split, part in run.dev.items() if part.cut is not None}
    notes = overlap_lines(run.rows, run.overlap)
    return Recomputed(run.directory.path, found.metrics, recorded, found.warnings(run.labels), cut, notes)
