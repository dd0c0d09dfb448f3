"""Runs of several folders as one table: seeds averaged, everything else kept apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.comparison.collect import ComparedRun, find_runs, read
from smpcli.comparison.filters import Filter
from smpcli.comparison.floors import find_floors
from smpcli.comparison.groups import Compared, Row, make_rows, subject
from smpcli.comparison.published import MODEL, PublishedRow, published
from smpcli.errors import UserError, joined, unknown
from smpcli.files import harmless_cell, replacing
from smpcli.runs.rundir import RunError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["Comparison", "Row", "compare", "subject"]

_WHAT_A_RUN_IS = "a run is a folder that `smp prune … --output FOLDER` makes"


@dataclass(frozen=True)
class Comparison(Compared):
    """Runs that were compared. Printing one with rich shows the tables."""

    def to_frame(self) -> pd.DataFrame:
        """A pandas frame, a column for each field of `Row`; seeds, values and runs joined to text.

        Floors come after the runs, published figures last; their source is in the column "published", which is empty
        for all else.
        """
        import pandas as pd

        records: list[dict[str, Any]] = [
            {
                **asdict(row),
                "seeds": " ".join(map(str, row.seeds)),
                "values": " ".join(map(repr, row.values)),
                "one_class": " ".join(map(str, row.one_class)),
                "runs": "; ".join(row.runs),
                "published": "",
            }
            for row in self.rows
        ]
        others = [*self.floors, *self.published]
        texts = ("head", "select", "variant", "seeds", "values", "one_class", "data_digest", "model_digest", "runs")
        blank = dict.fromkeys(texts, "")
        records += [
            {
                **blank,
                "built_in": True,
                **asdict(row),
                "remaining": row.remaining,
                "mean": row.value,
                "settings": row.label,
                "published": row.source,
            }
            for row in others
        ]
        frame = pd.DataFrame(records, columns=[*Row.__dataclass_fields__, "published"])
        counts = ("n", "trained", "task_bytes", "steps", "batch_size") if others else ()
        floats = ("std", "difference", "difference_low", "difference_high")
        return frame.astype({**dict.fromkeys(floats, "float64"), **dict.fromkeys(counts, "Int64")})

    def to_csv(self, path: Path | str) -> None:
        """Write the frame as CSV, numbers at full precision. Text that a spreadsheet would run gets a leading '."""
        frame = self._harmless_frame()
        with replacing(Path(path), "--csv") as temporary:
            frame.to_csv(temporary, index=False, encoding="utf-8", errors="backslashreplace", lineterminator="\n")

    def csv_text(self) -> str:
        """The same CSV as text."""
        text: str = self._harmless_frame().to_csv(index=False, lineterminator="\n")
        return text

    def _harmless_frame(self) -> pd.DataFrame:
        frame = self.to_frame()
        for name in frame.columns:
            if any(isinstance(value, str) for value in frame[name]):
                frame[name] = frame[name].map(lambda value: harmless_cell(value) if isinstance(value, str) else value)
        return frame

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries that `json` can write."""
        lists = ("seeds", "values", "one_class", "runs")
        return {
            "rows": [{**asdict(row), **{name: list(getattr(row, name)) for name in lists}} for row in self.rows],
            "floors": [asdict(row) for row in self.floors],
            "published": [asdict(row) for row in self.published],
            "problems": [{"path": str(path), "reason": reason} for path, reason in self.problems],
        }

    def to_markdown(self) -> str:
        """Pipe tables."""
        from smpcli.comparison.markup import to_markdown

        return to_markdown(self)

    def to_latex(self) -> str:
        """`tabular`s with booktabs' rules."""
        from smpcli.comparison.markup import to_latex

        return to_latex(self)

    def to_plot(self, path: Path | str) -> None:
        """Draw metric against remaining weights into a png, svg or pdf file. Raises `UserError`."""
        from smpcli.comparison.figure import draw

        draw(self, Path(path))

    def to_html(self, path: Path | str) -> None:
        """Write one self-contained page. Raises `UserError`."""
        from smpcli.comparison.page import write_page

        write_page(self, Path(path))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from smpcli.comparison.terminal import render

        yield from render(self, options.max_width)


def compare(
    *paths: Path | str,
    tasks: Sequence[str] = (),
    methods: Sequence[str] = (),
    where: Sequence[str] = (),
    metric: str | None = None,
    sort: str | None = None,
    with_published: bool = False,
    with_floors: bool = False,
    on_floor: Callable[[str], None] = lambda what: None,
) -> Comparison:
    """Compare every run in and below the given folders (default: results).

    tasks, methods, where ("key=value" of settings or results): show the runs that they leave; differences are to all
    dense runs there are, shown or not. metric: another than each task's first. sort: a field of `Row`, "-" before it
    for descending. with_published: add the published figures of smp's own tasks that are shown. with_floors: add what
    takes no transformer's training on the same data; `on_floor` is told what is fitted, as it may take minutes once.

    Raises `UserError` for a folder that isn't there or holds no run, finished or not, for names that nothing here
    has, and for floors of data that are gone or of a span task. Runs that can't be used are the
    comparison's `problems`.
    """
    chosen = Filter.of(tasks, methods, where)
    if sort is not None and sort.removeprefix("-") not in Row.__dataclass_fields__:
        raise unknown("column", sort.removeprefix("-"), Row.__dataclass_fields__, "docs/result-schema.md lists them")
    folders = [Path(path) for path in paths or ("results",)]
    problems: list[tuple[Path, str]] = []
    found: list[Path] = []
    seen: set[str] = set()
    for folder in folders:
        try:
            if not folder.is_dir():
                what = "is a file" if folder.exists() else "is not there"
                raise UserError(f"{folder} {what}", f"name a folder of runs; {_WHAT_A_RUN_IS}")
        except OSError as error:
            raise UserError(f"can't read {folder}: {error.strerror or error}") from error
        found.extend(find_runs(folder, seen, problems))
    if not found and not problems:
        raise UserError(f"{', '.join(map(str, folders))}: no runs in there", _WHAT_A_RUN_IS)

    groups: dict[tuple[Any, ...], dict[int, ComparedRun]] = {}
    for path in found:
        try:
            run = read(path, metric)
        except RunError as error:
            problems.append((path, joined(error.reason, error.remedy)))
            continue
        seeds = groups.setdefault(run.key, {})
        first = seeds.setdefault(run.result.run.seed, run)
        if first is not run:
            problems.append((path, f"same run twice: settings and seed are those of {first.path}, which counts"))
    every = [run for group in groups.values() for run in group.values()]
    if metric is not None and not every and found:
        raise UserError(f"no run here has the metric '{metric}'", "leave --metric out for each task's own")
    chosen.check([run.facts for run in every])
    rows = make_rows(list(groups.values()), chosen)
    if sort is not None:
        rows = _sorted(rows, sort)
    others = _published(rows, chosen) if with_published else []
    return Comparison(rows, problems, others, find_floors(rows, on_floor) if with_floors else [])


def _sorted(rows: list[Row], sort: str) -> list[Row]:
    """By one column within each subject; rows without a value come last."""
    name, descending = sort.removeprefix("-"), sort.startswith("-")
    full = [row for row in rows if getattr(row, name) is not None]
    ordered = sorted(full, key=lambda row: getattr(row, name), reverse=descending)
    return sorted([*ordered, *(row for row in rows if getattr(row, name) is None)], key=subject)


def _published(rows: Sequence[Row], chosen: Filter) -> list[PublishedRow]:
    # A person's own sst2.csv has the name of a task of ours, and nothing else of it.
    shown = {(row.task, row.metric) for row in rows if row.built_in}
    methods = set(chosen.methods)
    return [
        row
        for task in sorted({task for task, _ in shown})
        for row in published(task)
        if (task, row.metric) in shown and (not methods or row.method in {*methods, "dense", MODEL})
    ]
