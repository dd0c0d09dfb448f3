"""smp inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smpcli import api, console
from smpcli.commands import options


def inspect(
    run: options.RunPath,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="OTHER", help="A second run of the same model, to see what the two share."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the heat maps: a png, svg or pdf.")] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Look at a mask, or at what two masks share.

    Density by layer and type, what is empty, what a compact export would save, how the mask moved.
    """
    found = api.inspect(run, other)
    if plot:
        found.to_plot(plot)
    if json:
        console.data_json(found.to_json())
        return
    console.show(found)
    if plot and not quiet:
        console.talk(f"written to {plot}")
