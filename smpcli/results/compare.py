"""Runs of several folders as one table: seeds averaged, everything else kept apart."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError
from smpcli.files import harmless_cell, replacing
from smpcli.results.rundir import RunDir, RunError, is_run
from smpcli.results.schema import Result

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult

# What a person sets that can't change a figure, or that a column of its own or a digest stands for.
_NO_SETTINGS = frozenset(
    "seed output overwrite resume device data_dir checkpoint_every recipe json quiet dry_run".split()
)
_WHAT_A_RUN_IS = "a run is a folder that `smp prune … --output FOLDER` makes"


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed.

    `mean`, `std` (of the sample; None for one run) and `difference` are in the metric's own unit: [0, 1], or [-1, 1]
    for correlations. `difference` is to the mean of the dense row of the same task, data, model and metric; of
    several, the one nearest in length (examples seen), then the best. `settings` holds what tells rows apart that
    agree in everything else. `trained` and `task_bytes` are one run's, `remaining` and `seconds` means.
    """

    task: str
    model: str
    head: str
    method: str
    sparsity: float
    remaining: float
    metric: str
    mean: float
    std: float | None
    n: int
    difference: float | None
    trained: int
    task_bytes: int
    seconds: float
    steps: int
    batch_size: int
    settings: str
    seeds: tuple[int, ...]
    data_digest: str
    model_digest: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """`rows` by task, data, model and metric, there dense first, then by sparsity, then the best first.

    `problems` are the folders that are left out, each with the reason. Printing one with rich shows the table.
    """

    rows: list[Row]
    problems: list[tuple[Path, str]]

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame, a column for each field of `Row`; seeds and runs joined to text."""
        import pandas as pd

        records = [
            {**asdict(row), "seeds": " ".join(map(str, row.seeds)), "runs": "; ".join(row.runs)} for row in self.rows
        ]
        frame = pd.DataFrame(records, columns=list(Row.__dataclass_fields__))
        return frame.astype({"std": float, "difference": float})

    def to_csv(self, path: Path | str) -> None:
        """Write the frame as CSV, numbers at full precision. Text that a spreadsheet would run gets a leading '."""
        frame = self.to_frame()
        text = [name for name in frame.columns if isinstance(getattr(self.rows[0], name), str)] if self.rows else []
        for name in [*text, "seeds", "runs"]:
            frame[name] = frame[name].map(harmless_cell)
        with replacing(Path(path), "--csv") as temporary:
            frame.to_csv(temporary, index=False, encoding="utf-8", errors="backslashreplace", lineterminator="\n")

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries that `json` can write."""
        return {
            "rows": [{**asdict(row), "seeds": list(row.seeds), "runs": list(row.runs)} for row in self.rows],
            "problems": [{"path": str(path), "reason": reason} for path, reason in self.problems],
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from smpcli.results.table import render

        yield from render(self, options.max_width)


def compare(*paths: Path | str) -> Comparison:
    """Compare every run in and below the given folders (default: results).

    Raises `UserError` for a folder that isn't there or holds no run, finished or not. Runs that can't be used are the
    comparison's `problems`.
    """
    folders = [Path(path) for path in paths or ("results",)]
    problems: list[tuple[Path, str]] = []
    found: list[Path] = []
    seen: set[str] = set()
    for folder in folders:
        try:
            if not folder.is_dir():
                what = "is a file" if folder.exists() else "isn't there"
                raise UserError(f"{folder} {what}: name a folder of runs; {_WHAT_A_RUN_IS}")
        except OSError as error:
            raise UserError(f"can't read {folder}: {error.strerror or error}") from error
        found.extend(_find_runs(folder, seen, problems))
    if not found and not problems:
        raise UserError(f"{', '.join(map(str, folders))}: no runs in there; {_WHAT_A_RUN_IS}")

    groups: dict[tuple[Any, ...], dict[int, _Run]] = {}
    for path in found:
        try:
            run = _read(path)
        except RunError as error:
            problems.append((path, error.reason))
            continue
        seeds = groups.setdefault(run.key, {})
        first = seeds.setdefault(run.result.run.seed, run)
        if first is not run:
            problems.append((path, f"same run twice: settings and seed are those of {first.path}, which counts"))
    return Comparison(_rows(list(groups.values())), problems)


@dataclass(frozen=True)
class _Run:
    path: Path
    result: Result
    settings: dict[str, str]

    @property
    def key(self) -> tuple[Any, ...]:
        info = self.result
        what = (info.run.task, info.data.digest, info.model.name, info.model.digest, info.model.head, info.metric)
        return (*what, info.run.method, info.run.sparsity, tuple(sorted(self.settings.items())))


def _find_runs(folder: Path, seen: set[str], problems: list[tuple[Path, str]]) -> Iterator[Path]:
    """Run directories in and below a folder, sorted; each real folder once, so that a loop of links ends."""

    def report(error: OSError) -> None:
        problems.append((Path(error.filename or folder), f"can't be read: {error.strerror}"))

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


def _read(path: Path) -> _Run:
    run = RunDir.open(path)
    try:
        settings = dict(_flat({k: v for k, v in run.settings.items() if str(k) not in _NO_SETTINGS}))
    except (TypeError, ValueError, RecursionError) as error:  # YAML can hold itself, JSON can't
        raise RunError(path, f"is damaged: settings.yaml holds more than plain settings ({error})") from None
    return _Run(path, run.result, settings)


def _flat(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted keys and the text of their values."""
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _rows(groups: Sequence[Mapping[int, _Run]]) -> list[Row]:
    rows = [(_row(group), next(iter(group.values())).settings) for group in groups]
    alike: dict[tuple[Any, ...], list[dict[str, str]]] = {}
    for row, settings in rows:
        alike.setdefault(_looks(row), []).append(settings)
    told = [replace(row, settings=_what_differs(settings, alike[_looks(row)])) for row, settings in rows]
    compared = [replace(row, difference=_difference(row, told)) for row in told]
    return sorted(compared, key=_order)


def _row(group: Mapping[int, _Run]) -> Row:
    runs = [group[seed] for seed in sorted(group)]
    results = [run.result for run in runs]
    values = [result.value for result in results]
    first = results[0]
    return Row(
        task=first.run.task,
        model=first.model.name,
        head=first.model.head,
        method=first.run.method,
        sparsity=first.run.sparsity,
        remaining=statistics.fmean(result.run.remaining for result in results),
        metric=first.metric,
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        difference=None,
        trained=first.weights.trained,
        task_bytes=first.task_bytes,
        seconds=statistics.fmean(result.run.seconds for result in results),
        steps=first.training.steps,
        batch_size=first.training.batch_size,
        settings="",
        seeds=tuple(sorted(group)),
        data_digest=first.data.digest,
        model_digest=first.model.digest,
        runs=tuple(str(run.path) for run in runs),
    )


def subject(row: Row) -> tuple[str, ...]:
    """What a figure is about: only figures of one subject can be compared."""
    return (row.task, row.data_digest, row.model, row.model_digest, row.head, row.metric)


def _looks(row: Row) -> tuple[Any, ...]:
    return (*subject(row), row.method, row.sparsity)


def _order(row: Row) -> tuple[Any, ...]:
    return (*subject(row), row.method != "dense", row.sparsity, -row.mean, row.method, row.settings)


def _what_differs(settings: Mapping[str, str], alike: Sequence[Mapping[str, str]]) -> str:
    """The settings in which these rows aren't one, by the last part of their names where that is clear."""
    keys = sorted({key for one in alike for key in one})
    differing = [key for key in keys if len({one.get(key) for one in alike}) > 1]
    short = [key.rsplit(".", 1)[-1] for key in differing]
    names = [last if short.count(last) == 1 else key for key, last in zip(differing, short, strict=True)]
    return ", ".join(f"{name}={settings.get(key, '—')}" for name, key in zip(names, differing, strict=True))


def _difference(row: Row, rows: Sequence[Row]) -> float | None:
    dense = [other for other in rows if other.method == "dense" and subject(other) == subject(row)]
    if not dense:
        return None
    length = row.steps * row.batch_size
    # The best of equals, so that a badly trained dense run makes no pruned one look good.
    nearest = min(dense, key=lambda other: (abs(other.steps * other.batch_size - length), -other.mean))
    return row.mean - nearest.mean
