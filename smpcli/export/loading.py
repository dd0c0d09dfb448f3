"""From a run's folder or an export to a module that is ready to use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smpcli.errors import UserError, one_line
from smpcli.export.formats import FORMATS
from smpcli.runs.rundir import RunDir, is_run

if TYPE_CHECKING:
    from smpcli.export.ready import Ready


def load(path: str | Path, model: str | None = None) -> Ready:
    """A ready module from a run's folder or an export of any format, on the CPU.

    model: where the base model is, for what doesn't hold it and was made where it lay elsewhere.
    Raises UserError for anything else, for a damaged export, and for another base model than the export's.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(one_line(f"there is no run or export {path}"))
    if is_run(path):
        return _from_run(path, model)
    for name in FORMATS:
        format = FORMATS.load(name)
        if format.is_one(path):
            return format.load(path, model)
    raise UserError(one_line(f"{path} is neither a run's folder nor an export of smp"), "`smp export RUN` makes one")


def _from_run(path: Path, model: str | None) -> Ready:
    from smpcli.evaluation.restore import restore
    from smpcli.export.ready import Ready
    from smpcli.settings import resolve

    directory = RunDir.open(path)
    settings = resolve(flags={**directory.settings, **({"model": model} if model else {})})
    task = settings.task
    pruned, tokenizer = restore(directory, settings, task.labels)
    stride = settings.stride
    how = settings.max_length, task.pair is not None, stride, directory.result.data.special_tokens
    return Ready(pruned, tokenizer, task.name, task.kind, task.labels, *how)
