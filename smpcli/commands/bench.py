"""smp bench."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smpcli import api, console
from smpcli.bench.shapes import SHAPES
from smpcli.commands import options

if TYPE_CHECKING:
    from smpcli.bench.operations import Operations

app = typer.Typer(help="Measure speed and memory on this machine.")


@app.command("train")
def train(
    methods: Annotated[
        list[str] | None,
        typer.Argument(metavar="[METHOD]...", help="Methods.  [default: all that train]", show_default=False),
    ] = None,
    model: options.Model = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Random weights of this shape, instead of --model: " + ", ".join(SHAPES) + "."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a step.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Tokens a text.")] = 32,
    sparsity: Annotated[float, typer.Option(min=0, max=0.999999, help="Fraction pruned.")] = 0.9,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each method.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.  [default: all cores]")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure peak memory, too.")] = True,
    operations: Annotated[
        bool,
        typer.Option(
            "--operations",
            help="Count instead what a step launches on an accelerator beside the model's own passes, and how often "
            "it waits for an answer; on any machine.",
        ),
    ] = False,
    set_: options.Set = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time each method's training step.

    Dense fine-tuning and the methods take turns, and their peak memory is measured, too.
    """
    from smpcli.settings import parse_assignment

    case: dict[str, Any] = {
        "model": model,
        "shape": shape,
        "batch_size": batch_size,
        "length": length,
        "sparsity": sparsity,
        "precision": precision,
        "device": device,
        "settings": dict(map(parse_assignment, set_ or [])),
    }
    if operations:
        _show_operations(api.bench_operations(methods, **case), json)
        return
    rows = api.bench_train(
        methods,
        rounds=rounds,
        threads=threads,
        memory=memory,
        on_round=None if quiet or json else lambda done: console.talk(f"round {done} of {rounds}"),
        **case,
    )
    if json:
        # What isn't measured on this device isn't there.
        found = [dataclasses.asdict(row).items() for row in rows]
        console.data_json([{key: value for key, value in row if value is not None} for row in found])
        return
    columns = {
        "method": [row.method for row in rows],
        "seconds a step": [f"{row.seconds:.4f}" for row in rows],
        "ratio to dense": [f"{row.ratio:.2f}" for row in rows],
        "peak memory": [f"{row.peak_memory / 2**20:,.0f} MiB" if row.peak_memory else "" for row in rows],
        "kernels a step": ["" if row.kernels is None else f"{row.kernels:,.0f}" for row in rows],
        "device works, s": ["" if row.device_seconds is None else f"{row.device_seconds:.4f}" for row in rows],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    console.show(console.table(None, list(shown), map(list, zip(*shown.values(), strict=True))))


def _show_operations(rows: list[Operations], json: bool) -> None:
    if json:
        console.data_json([dataclasses.asdict(row) for row in rows])
        return
    cells = [[row.method, str(row.operations), str(row.waits)] for row in rows]
    console.show(console.table(None, ["method", "operations a step", "waits"], cells))


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
    """Time exports beside the dense model.

    Latency, throughput, size and memory; the dense model in torch and in onnxruntime.
    """
    report = api.bench_infer(*exports, batches=batches, lengths=lengths, repeats=repeats, threads=threads)
    if json:
        console.data_json(report.to_json())
        return
    from smpcli.bench.verdict import columns, rows

    console.show(console.table(report.title, columns(report), rows(report)))
    for line in report.verdict():
        console.data(line)
