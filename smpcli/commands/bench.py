"""smp bench."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smpcli import api, console
from smpcli.commands import options

app = typer.Typer(no_args_is_help=True, help="Measure speed, size and memory on this machine.")


@app.command("infer")
def infer(
    exports: Annotated[list[Path], typer.Argument(metavar="EXPORT…", help="Folders that `smp export` made.")],
    batches: Annotated[str, typer.Option(help="Texts a batch, e.g. 1,32.")] = "1,8,32",
    lengths: Annotated[str, typer.Option(help="Tokens a text, e.g. 32.")] = "16,32,128",
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds; the median counts.")] = 10,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each.  [default: OMP_NUM_THREADS or all cores]")
    ] = None,
    json: options.Json = False,
) -> None:
    """Latency, throughput, size and memory of exports, beside the dense model in torch and onnxruntime."""
    report = api.bench_infer(*exports, batches=batches, lengths=lengths, repeats=repeats, threads=threads)
    if json:
        console.data_json(report.to_json())
        return
    from smpcli.bench.table import columns, rows

    console.show(console.table(report.title, columns(report), rows(report)))
    for line in report.verdict():
        console.data(line)
