"""Floors: what the same data give without a transformer's training, for who asks whether one is needed at all.

They are fitted once, and kept in `FILE` beside the runs by what they depend on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.comparison.beside import FloorRow
from smpcli.comparison.groups import Row
from smpcli.errors import UserError
from smpcli.files import write_json
from smpcli.runs.rundir import RunDir
from smpcli.tasks.task import metric_name

if TYPE_CHECKING:
    from smpcli.comparison.floor_fits import Fitted
    from smpcli.settings import Settings
    from smpcli.tasks.data import TaskData

FILE = "floors.json"
# Another one where what is fitted changes: what was kept of the older is fitted again.
_SCHEMA = 1
KINDS = ("classification", "regression")
WORDS, VECTORS = "TF-IDF", "frozen vectors"


def find_floors(rows: Iterable[Row], tell: Callable[[str], None]) -> list[FloorRow]:
    """The floors of each task, data, model and metric among the rows. tell: is given what is about to be fitted.

    Raises `UserError` for a span task, and where data or model aren't what the runs had.
    """
    found: dict[tuple[str, ...], FloorRow] = {}
    for row in rows:
        for kind in (WORDS, VECTORS):
            model = (row.model, row.model_digest) if kind == VECTORS else ("", "")
            key = (kind, row.task, row.data_digest, row.metric, *model)
            if key in found:
                continue
            fitted = _fitted(kind, RunDir.open(row.runs[0]), tell)
            found[key] = FloorRow(
                task=row.task,
                model=model[0],
                method="floor",
                sparsity=None,
                metric=row.metric,
                value=fitted.metrics[row.metric],
                name=f"{kind} + {fitted.head}",
                kd=False,
                source="",
                c=fitted.c,
                data_digest=row.data_digest,
                model_digest=model[1],
                built_in=row.built_in,
            )
    return list(found.values())


def _fitted(kind: str, run: RunDir, tell: Callable[[str], None]) -> Fitted:
    """From the file beside the run, or made and put there."""
    from smpcli.comparison.floor_fits import Fitted, fit_vectors, fit_words

    path, info = run.path.parent / FILE, run.result
    key = f"{kind}, data {info.data.digest}"
    if kind == VECTORS:
        key += f", model {info.model.digest}, {run.settings.get('max_length')} tokens"
    kept = _read(path)
    with suppress(KeyError, TypeError, OverflowError):  # not there, or not as it was written
        fitted = Fitted(**kept[key])
        if all(map(math.isfinite, [fitted.c, *(fitted.metrics[name] for name in info.metrics)])):
            return fitted
    settings, data = _settings_and_data(run)
    tell(f"{kind} on {info.run.task}")
    if missing := [name for name in info.metrics if name not in _measured(settings)]:
        raise UserError(f"--floor: '{info.run.task}' isn't measured in {missing[0]} any longer", "leave out --floor")
    fitted = fit_words(settings, data) if kind == WORDS else fit_vectors(settings, data, run)
    # A place that can't be written costs time, not the table.
    with suppress(UserError, ValueError):
        write_json(path, {"schema": _SCHEMA, "floors": {**kept, key: vars(fitted)}})
    return fitted


def _measured(settings: Settings) -> set[str]:
    """What a result of the task calls its metrics."""
    return {metric_name(metric, split) for metric in settings.task.metrics for split in settings.task.dev_sets}


def _read(path: Path) -> dict[str, Any]:
    """What is kept there; nothing where there is no such file, or it isn't as it was written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["floors"]) if content["schema"] == _SCHEMA else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _settings_and_data(run: RunDir) -> tuple[Settings, TaskData]:
    from smpcli.settings import resolve
    from smpcli.tasks.data import load_data

    def place(name: str | None) -> Path | None:
        return None if name is None else Path(name)

    what = f"--floor needs the data of {run.path} again ({run.result.data.origin})"
    remedy = "put it back, or leave out --floor"
    try:
        settings = resolve(flags=dict(run.settings))
        task = settings.task
        data = None
        if task.kind in KINDS:
            data = load_data(task, place(settings.run.data_dir), dev_file=place(settings.run.dev_file))
    except UserError as error:
        raise UserError(f"{what}: {error.problem}", remedy) from error
    if data is None:
        raise UserError(
            f"--floor has none for '{task.name}', a task of kind {task.kind} and not {' or '.join(KINDS)}",
            "leave it out, or choose other runs with --task",
        )
    if data.digest != run.result.data.digest:
        raise UserError(f"{what}, and it has changed", remedy)
    return settings, data
