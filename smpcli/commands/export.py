"""smp export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smpcli import api, console
from smpcli.commands import options
from smpcli.export.formats import FORMATS, FULL

FORMAT_HELP = "; ".join(f"{name}: {format.summary}" for name, (format,) in FORMATS.entries().items())


def export(
    run: options.RunPath,
    format: Annotated[str, typer.Option(help=FORMAT_HELP + ".")] = "hf",
    output: Annotated[Path | None, typer.Option(help="Where it goes.  [default: exports/RUN…]")] = None,
    drop_rows_below: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="compact, sparse and onnx: also drop rows of fewer than N kept weights. Lossy."
        ),
    ] = 0,
    precision: Annotated[
        str,
        typer.Option(
            help="fp32; bf16 (for compact) or int8 (for onnx) are smaller, lossy, and faster on some processors."
        ),
    ] = FULL,
    data_dir: options.DataDir = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Export a run, and verify what was written.

    A new process loads the export, which must give the run's logits and metric.
    """
    made = api.export(
        run,
        format,
        output=output,
        data_dir=data_dir,
        overwrite=overwrite,
        drop_rows_below=drop_rows_below,
        precision=precision,
    )
    verified = made.verified
    if json:
        console.data_json(
            {
                "path": str(made.path),
                "format": made.format,
                "bytes": made.bytes,
                "metrics": verified.metrics if verified else None,
                "recorded": verified.recorded if verified else None,
                "max_difference": made.max_difference,
                "examples": made.examples,
                "remarks": list(made.remarks),
                **made.about,
            }
        )
        return
    if not quiet and verified is None:
        console.talk(f"{made.bytes:,} bytes; read back and equal bit for bit")
    elif not quiet and verified is not None:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in verified.metrics.items())
        console.talk(
            f"{made.bytes:,} bytes; in a new process {metrics} (the run: {verified.recorded:.4f}), "
            f"largest logit difference {verified.difference:.1e} over {verified.examples:,} examples"
        )
    for line in () if quiet else made.remarks:
        console.talk(line)
    console.data(str(made.path))
