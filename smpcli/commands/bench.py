"""smp bench."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from smpcli import api, console
from smpcli.commands import options
from smpcli.settings import parse_assignment

app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")


@app.command("train")
def train(
    methods: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="Methods.  [default: all]", show_default=False)
    ] = None,
    model: options.Model = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a step.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Tokens a text.")] = 32,
    sparsity: Annotated[float, typer.Option(min=0, max=0.999999, help="Fraction pruned.")] = 0.9,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each method.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.  [default: all cores]")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory, too.")] = True,
    set_: options.Set = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time a training step of dense fine-tuning and of each method, in turns, and measure their peak memory."""
    rows = api.bench_train(
        methods,
        model=model,
        batch_size=batch_size,
        length=length,
        sparsity=sparsity,
        rounds=rounds,
        threads=threads,
        precision=precision,
        device=device,
        memory=memory,
        on_round=None if quiet or json else lambda done: console.talk(f"round {done} of {rounds}"),
        settings=dict(map(parse_assignment, set_ or [])),
    )
    if json:
        console.data_json([dataclasses.asdict(row) for row in rows])
        return
    cells = [
        [
            row.method,
            f"{row.seconds:.4f}",
            f"{row.ratio:.2f}",
            f"{row.peak_memory / 2**20:,.0f} MiB" if row.peak_memory else "",
        ]
        for row in rows
    ]
    console.show(console.table(None, ["method", "seconds a step", "ratio to dense", "peak memory"], cells))
