"""Finding the runs in and below folders, and reading what a comparison needs of each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smpcli.comparison.filters import facts
from smpcli.runs.rundir import RunDir, RunError, is_run
from smpcli.runs.schema import Result
from smpcli.settings import AS_BEFORE, NOT_IN_DIGEST

# What a person sets that can't change a figure, or that a column of its own or a digest stands for.
_NO_SETTINGS = NOT_IN_DIGEST | set("seed output overwrite resume track recipe json quiet dry_run".split())


@dataclass(frozen=True)
class ComparedRun:
    """A finished run. settings: those that make a row; every: all of them; facts: all that a filter can ask for."""

    directory: RunDir
    result: Result
    settings: dict[str, str]
    every: dict[str, str]
    facts: dict[str, str]
    metric: str

    @property
    def path(self) -> Path:
        return self.directory.path

    @property
    def key(self) -> tuple[Any, ...]:
        info = self.result
        what = (info.run.task, info.data.digest, info.model.name, info.model.digest, info.model.head, self.metric)
        return (*what, info.run.method, info.run.sparsity, tuple(sorted(self.settings.items())))


def find_runs(folder: Path, seen: set[str], problems: list[tuple[Path, str]]) -> Iterator[Path]:
    """Run directories in and below a folder, sorted; each real folder once, so that a loop of links ends."""

    def report(error: OSError) -> None:
        problems.append((Path(error.filename or folder), f"unreadable: {error.strerror}"))

    for name, inner, _ in os.walk(folder, followlinks=True, onerror=report):
        inner.sort()
        path = Path(name)
        real = os.path.realpath(name)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        try:
            here = is_run(path)
        except OSError as error:
            report(error)
            continue
        if here:
            inner.clear()  # what a run holds is its own
            yield path


def read(path: Path, metric: str | None) -> ComparedRun:
    run = RunDir.open(path)
    result = run.result
    if metric is not None and metric not in result.metrics:
        raise RunError(path, f"without a metric '{metric}' (it has {', '.join(result.metrics)})")
    try:
        given = run.settings
        # What older runs don't say is as it was then.
        given = {**{key: AS_BEFORE[key] for key in AS_BEFORE if key == "select" or "penalty" in given}, **given}
        every = dict(_flat(given))
        settings = dict(_flat({k: v for k, v in given.items() if str(k) not in _NO_SETTINGS}))
        known = facts(dict(_flat(result.model_dump(mode="json"))), every)
    except (TypeError, ValueError, RecursionError) as error:  # YAML can hold itself, JSON can't
        raise RunError(path, f"damaged: settings.yaml holds more than plain settings ({error})") from None
    return ComparedRun(run, result, settings, every, known, metric or result.metric)


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted keys and the text of their values."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
