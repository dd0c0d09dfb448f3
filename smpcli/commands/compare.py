"""smp compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smpcli import api, console
from smpcli.commands import options
from smpcli.results.rundir import is_run


def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Folders that hold runs.")],
    csv: Annotated[
        Path | None,
        typer.Option(help="Where the CSV goes.  [default: comparison.csv in the first folder, or beside a run]"),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare runs: a table in the terminal, and the same as CSV."""
    found = api.compare(*paths)
    # Not inside a run's own folder, which holds nothing else.
    target = csv or (paths[0].parent if is_run(paths[0]) else paths[0]) / "comparison.csv"
    found.to_csv(target)
    if json:
        console.data_json(found.to_json())
        return
    console.show(found)
    if not quiet:
        console.talk(f"written to {target}")
