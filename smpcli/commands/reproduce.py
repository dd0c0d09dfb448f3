"""smp reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from smpcli import api, console
from smpcli.commands import completion, live, options
from smpcli.commands.sweep import say_failed, show_plan
from smpcli.errors import EXIT_SOME_FAILED, UserError

if TYPE_CHECKING:
    from smpcli.sweeping.reproduction import Reproduction


def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE", help="Table of the paper, or one of its rows.", autocompletion=completion.tables
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas between them.")] = api.SEEDS,
    output: options.Output = Path("results"),
    model: Annotated[
        str | None, typer.Option(help="Another base model, for a trial.  [default: the paper's]")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(help="Training steps of each run, for a trial.  [default: the paper's length]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time; they share the machine's threads.  [default: 1]")
    ] = None,
    data_dir: options.DataDir = None,
    device: options.Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs, how long they will take, and the paper's figures.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="With --dry-run: time a few steps where no finished run tells.")
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Reproduce a table of the paper.

    Fine-tunes the teacher where a row distils, makes the runs of five seeds, and prints the paper's figures beside
    ours. What is finished is skipped, so the same command goes on after an interruption.

    Without a name, list the tables. Exit code 3: some runs failed.
    """
    if table is None:
        if dry_run or calibrate or model is not None or max_steps is not None:
            raise UserError("no table", "name one that `smp reproduce` lists, before its options")
        _list(json)
        return 0
    if calibrate and not dry_run:
        raise UserError("--calibrate is for --dry-run", "add it, or leave --calibrate out")
    if dry_run:
        found, estimate = api.estimate_reproduction(
            table,
            seeds=seeds,
            output=output,
            model=model,
            max_steps=max_steps,
            workers=workers,
            data_dir=data_dir,
            device=device,
            calibrate=calibrate,
        )
        if json:
            times = {"estimated_seconds": estimate.total, "sources": estimate.sources}
            console.data_json(found.to_json() | times)
        else:
            show_plan(found.runs, estimate, json=False)
            _show(found)
        return 0
    with live.SweepDisplay(quiet or json) as progress:
        found = api.reproduce(
            table,
            seeds=seeds,
            output=output,
            model=model,
            max_steps=max_steps,
            workers=workers,
            data_dir=data_dir,
            device=device,
            watcher=progress,
        )
    if json:
        console.data_json(found.to_json())
    else:
        _show(found)
    say_failed(found.runs)
    return EXIT_SOME_FAILED if any(run.state == "failed" for run in found.runs) else 0


def _list(json: bool) -> None:
    from smpcli.sweeping.reproduction import list_tables

    found = list_tables()
    if json:
        console.data_json(found)
        return
    console.show(
        console.table(None, ["table", "what it holds"], [(entry["name"], entry["description"]) for entry in found])
    )


def _show(found: Reproduction) -> None:
    """The paper's figures and ours in per cent."""
    rows = []
    for figure in found.figures():
        ours = "" if figure.mean is None else f"{figure.mean * 100:.2f}"
        spread = "" if figure.std is None else f" ± {figure.std * 100:.2f}"
        theirs = "" if figure.published is None else f"{figure.published * 100:.1f}"
        difference = "" if figure.difference is None else f"{figure.difference * 100:+.2f}"
        rows.append((figure.row, figure.metric, ours + spread, str(len(figure.values)), theirs, difference))
    console.show(console.table(None, ["row", "metric", "ours %", "seeds", "paper %", "difference"], rows))
    for line in found.notes():
        console.data(line)
