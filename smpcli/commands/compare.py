"""smp compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from smpcli import api, console
from smpcli.commands import options
from smpcli.errors import UserError

if TYPE_CHECKING:
    from smpcli.comparison.compare import Comparison

Format = Literal["table", "csv", "json", "markdown", "latex"]


def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Folders that hold runs.")],
    task: Annotated[list[str] | None, typer.Option(help="Only runs of this task; may be given repeatedly.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only runs of this method; may be repeated.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Only runs with this setting or result, e.g. init=zero, seed=0 or training.steps=400; may be "
            "repeated: another value of the same key adds runs, another key leaves fewer.",
        ),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Another metric than each task's first, e.g. f1.")] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Order of the rows, e.g. seconds; -mean for the highest first."),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Add published figures of the same tasks, marked as such.")
    ] = False,
    floor: Annotated[
        bool,
        typer.Option(
            "--floor",
            help="Add what the same data give without a transformer's training: TF-IDF, and frozen vectors, with "
            "logistic regression; fitted once, kept beside the runs.",
        ),
    ] = False,
    format: Annotated[Format, typer.Option(help="What is printed.")] = "table",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw metric against remaining weights: a png, svg or pdf.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one self-contained page to explore the runs in.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Where the CSV goes.  [default: comparison.csv beside the runs of the first folder]"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare runs: table, CSV, figure or page.

    For example: smp compare results/ --method smp --method movement --plot figure.pdf
    """
    if json and format not in ("table", "json"):
        raise UserError(f"--json and --format {format} are mutually exclusive", "give one of them")
    found = api.compare(
        *paths,
        tasks=task or (),
        methods=method or (),
        where=where or (),
        metric=metric,
        sort=sort,
        with_published=published,
        with_floors=floor,
        on_floor=lambda what: None if quiet else console.talk(f"fitting a floor, once: {what} …"),
    )
    if not found.rows:
        # For a program that reads JSON, the reasons are in there.
        if json or format == "json":
            console.data_json(found.to_json())
        else:
            _say_left_out(found)
        filters = " with these filters" if task or method or where or metric else ""
        left = f" (left out for the reasons given: {len(found.problems):,})" if found.problems else ""
        raise UserError(
            f"nothing to compare in {', '.join(map(str, paths))}: no finished run{filters}{left}",
            f"finish one{' or widen the filters' if filters else ''}",
        )
    target = csv or _beside_runs(found, paths[0])
    written = [target] if target else []
    # What can be refused comes first, so that nothing is half-written.
    if plot:
        found.to_plot(plot)
        written.append(plot)
    if html:
        found.to_html(html)
        written.append(html)
    if target:
        found.to_csv(target)
    match "json" if json else format:
        case "json":
            console.data_json(found.to_json())
            return
        case "csv":
            console.data(found.csv_text().rstrip("\n"))
        case "markdown":
            console.data(found.to_markdown())
        case "latex":
            console.data(found.to_latex())
        case _:
            console.show(found)
    if format != "table":
        _say_left_out(found)
    if not quiet and written:
        console.talk(f"written to {', '.join(map(str, written))}")
    if not quiet and not target:
        console.talk(f"no CSV is written, as no run lies right in {paths[0]}: --csv FILE says where it goes")


def _beside_runs(found: Comparison, first: Path) -> Path | None:
    """Where the CSV goes without being asked for: among runs, never in one and never in a folder of other things."""
    from smpcli.runs.rundir import is_run

    # Not inside a run's own folder, which holds nothing else.
    folder = _above(first) if is_run(first) else first
    places = {_above(Path(run)).resolve() for row in found.rows for run in row.runs}
    return folder / "comparison.csv" if folder.resolve() in places else None


def _above(path: Path) -> Path:
    """The folder that a folder lies in; "." and ".." have no name to take away."""
    return path.parent if path.name not in ("", "..") else path.resolve().parent


def _say_left_out(found: Comparison) -> None:
    for path, reason in found.problems:
        console.talk(f"left out: {path}: {reason}")
