"""smp compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smpcli import api, console
from smpcli.commands import options


def compare(
    paths: Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Folders that hold runs.")],
    csv: Annotated[
        Path | None, typer.Option(help="Where the CSV goes.  [default: comparison.csv in the first folder]")
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare runs: a table in the terminal, and the same as CSV."""
    found = api.compare(*paths)
    target = csv or paths[0] / "comparison.csv"
    found.to_csv(target)
    if json:
        console.data_json(found.to_json())
        return
    console.show(found)
    if not quiet:
        for path, reason in found.problems:
            console.talk(f"left out {path}: {reason}")
        console.talk(f"written to {target}")
