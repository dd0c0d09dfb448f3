"""smp sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smpcli import api, console
from smpcli.commands import completion, live, options
from smpcli.errors import EXIT_SOME_FAILED, UserError

if TYPE_CHECKING:
    from smpcli.sweeping.estimate import Estimate
    from smpcli.sweeping.sweep import SweepRun


def sweep(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|NAME",
            help="Sweep file (docs/sweeps.md), or a built-in sweep.",
            autocompletion=completion.sweeps,
        ),
    ] = None,
    set_: options.Set = None,
    output: options.Output = Path("results"),
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time; they share the machine's threads.  [default: 1]")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="local: a process for each run; pool: processes that make many; ray: a Ray cluster.  "
            "[default: pool with a GPU, else local]",
            autocompletion=completion.engines,
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster's address.  [default: one is started on this machine]")
    ] = None,
    data_dir: options.DataDir = None,
    device: options.Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs and how long they will take, and make none.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="With --dry-run: time a few steps where no finished run tells.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Make all runs of a grid.

    What is finished is skipped, so the same command goes on after an interruption.

    Without a name, list the sweeps that are built in. Exit code 3: some runs failed.
    """
    if file is None:
        if set_ or dry_run or calibrate or data_dir is not None or device is not None:
            raise UserError("no sweep", "name a file, or one that `smp sweep` lists, before its options")
        _list(json)
        return 0
    from smpcli.settings import parse_assignment

    settings: dict[str, Any] = dict(map(parse_assignment, set_ or []))
    settings |= {key: value for key, value in {"data_dir": data_dir, "device": device}.items() if value is not None}
    if calibrate and not dry_run:
        raise UserError("--calibrate is for --dry-run", "add it, or leave --calibrate out")
    if dry_run:
        runs, estimate = api.estimate_sweep(
            file, output=output, settings=settings, workers=workers, calibrate=calibrate
        )
        show_plan(runs, estimate, json)
        return 0
    with live.SweepDisplay(quiet or json) as progress:
        runs = api.sweep(
            file,
            output=output,
            settings=settings,
            workers=workers,
            engine=engine,
            address=address,
            watcher=progress,
        )
    _show(runs, json, quiet)
    return EXIT_SOME_FAILED if any(run.state == "failed" for run in runs) else 0


def _list(json: bool) -> None:
    from smpcli.sweeping.grid import list_sweeps

    found = list_sweeps()
    if json:
        console.data_json(found)
        return
    console.show(
        console.table(None, ["sweep", "what it does"], [(entry["name"], entry["description"]) for entry in found])
    )


def _show(runs: list[SweepRun], json: bool, quiet: bool) -> None:
    from smpcli.sweeping.progress_table import render

    if json:
        console.data_json([run.to_json() for run in runs])
    elif quiet:
        for run in runs:
            if run.state == "finished":
                console.data(str(run.path))
    else:
        console.show(render(runs))
    say_failed(runs)


def say_failed(runs: list[SweepRun]) -> None:
    """Each failure with its exit code, which is that of `smp prune`."""
    for run in runs:
        if run.state == "failed":
            code = "" if run.exit_code is None else f" (exit code {run.exit_code})"
            # The run's own error, which is short enough as it is.
            console.talk(f"error: {run.job.id} failed{code}: {run.error}")


def show_plan(runs: list[SweepRun], estimate: Estimate, json: bool) -> None:
    """The runs, and how long those that are still to be made will take."""
    from smpcli.sweeping.progress_table import clock, counts

    times = estimate.seconds
    if json:
        console.data_json(
            {
                "runs": [run.to_json() | {"estimated_seconds": times.get(run.job.id)} for run in runs],
                "estimated_seconds": estimate.total,
                "sources": estimate.sources,
            }
        )
        return

    def time(run: SweepRun) -> str:
        seconds = times.get(run.job.id)
        return "" if run.state != "waiting" else "unknown" if seconds is None else f"about {clock(seconds)}"

    rows = [(run.job.id, run.state, "" if run.steps is None else f"{run.steps:,}", time(run)) for run in runs]
    console.show(console.table(None, ["run", "state", "steps", "time"], rows))
    console.data(counts(runs))
    for run in runs:
        if run.error:
            console.data(f"{run.job.id}: {run.error}")
    if not times:
        return
    if estimate.total is not None:
        workers = f" with {estimate.workers} workers" if estimate.workers > 1 else ""
        console.data(f"about {clock(estimate.total)} to go{workers}, by {' and '.join(estimate.sources)}")
    else:
        console.data(f"time unknown: nothing measured for {estimate.unknown} runs (--calibrate times a few steps)")
