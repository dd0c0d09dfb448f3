"""The rows of a comparison: seeds grouped, measured by the dense run, told apart by their settings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smpcli.comparison import bootstrap
from smpcli.comparison.beside import FloorRow
from smpcli.comparison.collect import ComparedRun
from smpcli.comparison.filters import Filter
from smpcli.comparison.published import PublishedRow
from smpcli.tasks.task import is_built_in

#: The runs of a row by their seed.
Group = Mapping[int, ComparedRun]


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed.

    `mean`, `std` (of the sample; None for one run) and `difference` are in the metric's own unit: [0, 1], or [-1, 1]
    for correlations. `difference` is to the mean of the dense row of the same task, data, model and metric; of
    several, the one nearest in length (examples seen; to a run without steps all are as near), then the best. Its
    95 % interval, `difference_low` to `difference_high`, is a paired bootstrap's over dev examples; None where
    predictions are missing. `best`: of
    several rows at this sparsity. `settings` holds what tells rows apart that agree in everything else; `variant`
    what tells apart the rows of a method at any one sparsity, so that rows of one variant make a line over
    sparsities. `kd`: with a teacher. `select`: "best" where dev chose among a run's evaluations at the final density.
    `values` are the metric of each seed. `one_class`: the seeds whose runs predict the same class, number or answer
    for every dev example. `built_in`: the task is one of smp's own, not a file that may have its name. `trained` and
    `task_bytes` are one run's, `remaining` and `seconds` means.
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
    difference_low: float | None
    difference_high: float | None
    best: bool
    trained: int
    task_bytes: int
    seconds: float
    steps: int
    batch_size: int
    kd: bool
    select: str
    settings: str
    variant: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    one_class: tuple[int, ...]
    built_in: bool
    data_digest: str
    model_digest: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """`rows` by task, data, model and metric, there dense first, then by sparsity, then the best first.

    `problems` are the folders that are left out, each with the reason. `published`: figures of others for the same
    tasks, and `floors`: what takes no transformer's training on the same data, where they were asked for.
    """

    rows: list[Row]
    problems: list[tuple[Path, str]]
    published: list[PublishedRow] = field(default_factory=list)
    floors: list[FloorRow] = field(default_factory=list)


def make_rows(groups: Sequence[Group], chosen: Filter) -> list[Row]:
    """The rows of the chosen runs. Dense runs are the mark even where they aren't shown themselves."""
    kept = [{seed: run for seed, run in group.items() if chosen.keeps(run.facts)} for group in groups]
    shown = [group for group in kept if group]
    dense = [(_row(group), group) for group in groups if next(iter(group.values())).result.run.method == "dense"]
    rows = _told_apart([(_row(group), next(iter(group.values())).settings) for group in shown])
    marks = [_mark(row, dense) for row in rows]
    found = _intervals(rows, shown, marks)
    best = {id(row) for rivals in _by_sparsity(rows).values() for row in _best(rivals)}
    compared = [
        replace(
            row,
            one_class=_one_class(group),
            difference=None if mark is None else row.mean - mark[0].mean,
            difference_low=interval[0] if interval else None,
            difference_high=interval[1] if interval else None,
            best=id(row) in best,
        )
        for row, group, mark, interval in zip(rows, shown, marks, found, strict=True)
    ]
    return sorted(compared, key=_order)


def _told_apart(rows: Sequence[tuple[Row, Mapping[str, str]]]) -> list[Row]:
    """The rows with their `settings` and `variant`."""
    alike: dict[tuple[Any, ...], list[Mapping[str, str]]] = {}
    for row, settings in rows:
        alike.setdefault(_looks(row), []).append(settings)
    # What tells rows apart at any sparsity names a line over all of them.
    of_method: dict[tuple[Any, ...], set[str]] = {}
    for row, _ in rows:
        of_method.setdefault(_looks(row)[:-1], set()).update(_differing(alike[_looks(row)]))
    return [
        replace(
            row,
            settings=_named(settings, _differing(alike[_looks(row)])),
            variant=_named(settings, sorted(of_method[_looks(row)[:-1]])),
        )
        for row, settings in rows
    ]


def _intervals(
    rows: Sequence[Row],
    shown: Sequence[Group],
    marks: Sequence[tuple[Row, Group] | None],
) -> list[tuple[float, float] | None]:
    predictions: dict[Path, bootstrap.DevPredictions | None] = {}

    def of(group: Group) -> list[bootstrap.DevPredictions]:
        for run in group.values():
            if run.path not in predictions:
                predictions[run.path] = bootstrap.dev_predictions(run.directory, run.metric)
        found = [predictions[run.path] for run in group.values()]
        return [one for one in found if one is not None] if None not in found else []

    pairs = [
        ([], []) if mark is None or row.method == "dense" else (of(group), of(mark[1]))
        for row, group, mark in zip(rows, shown, marks, strict=True)
    ]
    return bootstrap.intervals(pairs)


def _one_class(group: Group) -> tuple[int, ...]:
    return tuple(seed for seed in sorted(group) if bootstrap.one_class(group[seed].directory, group[seed].metric))


def _row(group: Group) -> Row:
    runs = [group[seed] for seed in sorted(group)]
    results = [run.result for run in runs]
    values = [run.result.metrics[run.metric] for run in runs]
    first = results[0]
    return Row(
        task=first.run.task,
        model=first.model.name,
        head=first.model.head,
        method=first.run.method,
        sparsity=first.run.sparsity,
        remaining=statistics.fmean(result.run.remaining for result in results),
        metric=runs[0].metric,
        mean=statistics.fmean(values),
        std=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        difference=None,
        difference_low=None,
        difference_high=None,
        best=False,
        trained=first.weights.trained,
        task_bytes=first.task_bytes,
        seconds=statistics.fmean(result.run.seconds for result in results),
        steps=first.training.steps,
        batch_size=first.training.batch_size,
        kd=first.training.teacher is not None,
        select="last" if first.training.selected is None else "best",
        settings="",
        variant="",
        seeds=tuple(sorted(group)),
        values=tuple(values),
        one_class=(),
        built_in=is_built_in(runs[0].every.get("task")),
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


def _by_sparsity(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault((*subject(row), row.sparsity), []).append(row)
    return found


def _best(rivals: Sequence[Row]) -> list[Row]:
    """The best where there is more than one row to choose from; all of them where they tie."""
    top = max(row.mean for row in rivals)
    return [row for row in rivals if row.mean == top] if len(rivals) > 1 else []


def _differing(alike: Sequence[Mapping[str, str]]) -> list[str]:
    """The settings in which these rows aren't one."""
    keys = sorted({key for one in alike for key in one})
    return [key for key in keys if len({one.get(key) for one in alike}) > 1]


def _named(settings: Mapping[str, str], keys: Sequence[str]) -> str:
    """Some settings as text, by the last part of their names where that is clear."""
    short = [key.rsplit(".", 1)[-1] for key in keys]
    names = [last if short.count(last) == 1 else key for key, last in zip(keys, short, strict=True)]
    return ", ".join(f"{name}={settings.get(key, '—')}" for name, key in zip(names, keys, strict=True))


def _mark(row: Row, dense: Sequence[tuple[Row, Group]]) -> tuple[Row, Group] | None:
    """The dense row that a row is measured by."""
    same = [other for other in dense if subject(other[0]) == subject(row)]
    if not same:
        return None
    length = row.steps * row.batch_size
    # The best of equals, so that a badly trained dense run makes no pruned one look good; to no steps all are equal.
    return min(
        same, key=lambda other: (length and abs(other[0].steps * other[0].batch_size - length), -other[0].mean)
    )
