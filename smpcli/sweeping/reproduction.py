"""A table of the paper as the runs of a sweep, and its figures beside ours (docs/paper.md)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.catalogue import list_recipes
from smpcli.comparison.compare import compare
from smpcli.comparison.published import published
from smpcli.errors import unknown
from smpcli.modeling.backbone import model_path
from smpcli.settings import NOT_IN_DIGEST, resolve
from smpcli.sweeping.grid import Job, named, taught

if TYPE_CHECKING:
    from smpcli.settings import Settings
    from smpcli.sweeping.sweep import SweepRun

#: Where a teacher comes from. One of this seed serves all seeds of a row, and all rows of its task and model.
TEACHER, TEACHER_SEED = "dense-paper", 0

_PAPER = "paper/"
_LARGE = {"mnli": "MNLI", "qqp": "QQP", "squad": "SQuAD"}
_GLUE = "mnli qnli sst2 qqp mrpc cola stsb rte".split()
#: Tables whose last line is the mean over GLUE's tasks.
_MEANS = {
    "glue-80": ("GLUE at 80 % remaining, BERT, and the mean of its tasks.", [f"{task}-80" for task in _GLUE]),
    "roberta-glue-80": ("The same for RoBERTa.", [f"roberta-{task}-80" for task in _GLUE]),
}


def _remaining(task: str, shares: Sequence[int]) -> list[str]:
    return [f"{task}-{share}" for share in shares]


_KD = {task: _remaining(f"{task}-kd", (50, 10, 3)) for task in _LARGE}
_ALONE = {task: _remaining(task, (10, 3)) for task in _LARGE}
#: Name -> what it holds, and its rows: recipes of paper/.
_TABLES = {
    "kd": ("With distillation, BERT: MNLI, QQP and SQuAD at 50, 10 and 3 % remaining.", [*chain(*_KD.values())]),
    "no-kd": ("Without distillation, BERT: MNLI, QQP and SQuAD at 10 and 3 %.", [*chain(*_ALONE.values())]),
    **{f"{task}-kd": (f"{title} of the table `kd`.", _KD[task]) for task, title in _LARGE.items()},
    **{task: (f"{title} of the table `no-kd`.", _ALONE[task]) for task, title in _LARGE.items()},
    **_MEANS,
}


@dataclass(frozen=True)
class PaperRow:
    """A row of a table. settings: the paper's own; jobs: its runs, a seed each, with what was asked for changed."""

    name: str
    settings: Settings
    jobs: list[Job]


@dataclass(frozen=True)
class Figure:
    """A figure of the paper and ours, in the metric's own unit.

    values: ours by seed; published: the paper's, None where it has none for this row.
    """

    row: str
    task: str
    metric: str
    published: float | None
    values: Mapping[int, float]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """Of the sample; None for fewer than two seeds."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.mean is None or self.published is None else self.mean - self.published

    def to_json(self) -> dict[str, Any]:
        derived = {name: getattr(self, name) for name in ("mean", "std", "difference")}
        what = {name: getattr(self, name) for name in ("row", "task", "metric", "published")}
        return {**what, "seeds": list(self.values), "values": list(self.values.values()), **derived}


@dataclass(frozen=True)
class Reproduction:
    """A table with the runs that make it, as they stand. changed: settings that are not the paper's."""

    name: str
    rows: list[PaperRow]
    changed: dict[str, Any]
    runs: list[SweepRun] = field(default_factory=list)

    @property
    def jobs(self) -> list[Job]:
        """Every run once, teachers first; then seed by seed, so that a whole table is there after the first."""
        jobs = {job.id: job for row in self.rows for job in row.jobs}
        return sorted(jobs.values(), key=lambda job: (job.settings.pruner.prunes, job.settings.run.seed))

    def figures(self) -> list[Figure]:
        """The table: every published figure of its rows, beside ours of the runs that are finished."""
        paths = {run.job.id: run.path for run in self.runs if run.state == "finished"}
        made = [list(_figures(row, [paths[job.id] for job in row.jobs if job.id in paths])) for row in self.rows]
        found = [figure for figures in made for figure in figures]
        return [*found, _mean(self.rows[0], [figures[0] for figures in made])] if self.name in _MEANS else found

    def notes(self) -> list[str]:
        """What a reader of the table must know, a line each."""
        found = [f"paper: {_source()}; difference: ours less the paper's"]
        if any(row.settings.run.select == "best" for row in self.rows):
            found.append("of pruned rows, dev chose among the evaluations at the final density: the paper's and ours")
        if self.changed:
            changed = ", ".join(f"{key} {value}" for key, value in self.changed.items())
            found.append(f"a trial, and no reproduction: {changed}")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.name,
            "changed": self.changed,
            "figures": [figure.to_json() for figure in self.figures()],
            "runs": [run.to_json() for run in self.runs],
        }


def list_tables() -> list[dict[str, Any]]:
    """What can be reproduced, each with its description and rows: the tables, then their rows one by one."""
    recipes = {entry["name"].removeprefix(_PAPER): entry["description"] for entry in list_recipes()}
    rows = {row: (recipes[row], [row]) for row in (*_TABLES["kd"][1], *_TABLES["no-kd"][1])}
    rows |= {row: (recipes[row], [row]) for _, of_means in _MEANS.values() for row in of_means}
    return [{"name": name, "description": about, "rows": its} for name, (about, its) in {**_TABLES, **rows}.items()]


def plan_table(name: str, seeds: Sequence[int], output: Path, given: Mapping[str, Any]) -> Reproduction:
    """The rows of a table and their runs, those with distillation after their teacher.

    given: settings that take the place of the recipes' (None: not given). Raises `UserError`.
    """
    known = {entry["name"]: entry["rows"] for entry in list_tables()}
    if name not in known:
        raise unknown("table of the paper", name, known, "`smp reproduce` lists them")
    if given.get("model") is not None:
        model_path(given["model"])
    rows: dict[str, PaperRow] = {}
    for row in known[name]:
        settings = resolve(f"{_PAPER}{row}")
        jobs = [named(resolve(f"{_PAPER}{row}", {**given, "seed": seed})) for seed in seeds]
        if settings.run.teacher:
            about = {"task": settings.run.task, "model": settings.run.model}
            replaced = {key: value for key, value in given.items() if value is not None}
            teacher = named(resolve(TEACHER, {**about, **replaced, "seed": TEACHER_SEED}))
            what = f"{settings.run.task} teacher"
            rows.setdefault(what, PaperRow(what, resolve(TEACHER, about), [teacher]))
            jobs = [taught(job, teacher, output) for job in jobs]
        rows[row] = PaperRow(row, settings, jobs)
    changed = {key: value for key, value in given.items() if value is not None and key not in NOT_IN_DIGEST}
    return Reproduction(name, list(rows.values()), changed)


def _source() -> str:
    return published(method="smp")[0].source


def _figures(row: PaperRow, finished: Sequence[Path]) -> Iterator[Figure]:
    run = row.settings.run
    kd = run.teacher is not None
    there = {
        figure.metric: figure.value
        for figure in published(run.task, row.settings.pruner.name, run.sparsity, model=run.model, kd=kd)
        # The paper has more variants of its method in one table, and other papers have a dense row, too.
        if figure.source == _source()
        and (not row.settings.pruner.prunes or figure.name == f"SMP-{row.settings.method.allocation}")
    }
    for metric, value in there.items() or [(None, None)]:
        ours = compare(*finished, metric=metric).rows if finished else []
        shown = metric or row.settings.task.metrics[0]
        for one in ours:
            yield Figure(row.name, run.task, one.metric, value, dict(zip(one.seeds, one.values, strict=True)))
        if not ours:
            yield Figure(row.name, run.task, shown, value, {})


def _mean(row: PaperRow, figures: Sequence[Figure]) -> Figure:
    """The mean over tasks, of the seeds that every task has."""
    run = row.settings.run
    there = published("glue", row.settings.pruner.name, run.sparsity, model=run.model, kd=False)
    seeds = set.intersection(*(set(figure.values) for figure in figures))
    values = {seed: statistics.fmean(figure.values[seed] for figure in figures) for seed in sorted(seeds)}
    return Figure("mean", "glue", "mean", there[0].value if there else None, values)
