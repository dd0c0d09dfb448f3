"""The command line: one line a command."""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from smpcli import console
from smpcli.commands import (
    bench,
    compare,
    doctor,
    evaluate,
    export,
    inspect,
    listings,
    predict,
    prune,
    reproduce,
    sweep,
)
from smpcli.errors import terminate
from smpcli.reporting import guarded

app = typer.Typer(
    name="smp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text, also for speed: typer's rich help imports a Markdown parser and a traceback formatter, 0.1 s more.
    rich_markup_mode=None,
    help="Prune pre-trained language models for a task, and compare methods of doing so.",
)
app.command("prune")(prune.prune)
app.command("finetune")(prune.finetune)
app.command("eval")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("inspect")(inspect.inspect)
app.command("sweep")(sweep.sweep)
app.command("reproduce")(reproduce.reproduce)
app.command("export")(export.export)
app.command("predict")(predict.predict)
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)
app.command("methods")(listings.methods)
app.command("tasks")(listings.tasks)
app.command("recipes")(listings.recipes)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        console.data(f"smp {version('smp-prune')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit: 0 done, 1 a fault of ours, 2 to be mended, 130 interrupted, 143 terminated."""
    signal.signal(signal.SIGTERM, terminate)
    console.quieten_libraries()
    sys.exit(guarded(lambda: app(prog_name="smp", standalone_mode=False)))
