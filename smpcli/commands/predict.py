"""smp predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smpcli import api, console
from smpcli.commands import options


def predict(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN_OR_EXPORT] [TEXT]…",
            help="A run's folder or an export (left out with --mask), then texts. Without texts: standard input.",
        ),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A mask file; repeat it for several tasks over one base model in memory."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Read the texts from this file, one a line.")] = None,
    model: options.BaseModel = None,
) -> None:
    """Predict for texts, as lines of JSON.

    One line for each text and each task.

    For example: smp predict --mask sst2.smpmask --mask cola.smpmask "A film of rare charm."
    A task on pairs takes both texts with a tab between them, a span task a question and its context.
    """
    from smpcli.export.predict import arrange

    exports, texts = arrange(arguments or [], mask or [], file)
    for answer in api.predict(*exports, texts=texts, model=model):
        console.data_line(answer)
