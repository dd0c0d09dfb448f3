"""Flags that more than one command takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smpcli.commands import completion

Task = Annotated[
    str | None,
    typer.Option(
        help="Task (`smp tasks`), or a csv, tsv, jsonl, parquet or SQuAD json file, or a task's yaml file.",
        autocompletion=completion.tasks,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(help="Pruning method, see `smp methods`.  [default: smp]", autocompletion=completion.methods),
]
Sparsity = Annotated[
    float | None, typer.Option(help="Fraction of the prunable weights to prune, 0 to below 1.  [default: 0.9]")
]
Model = Annotated[
    str | None, typer.Option(help="Base model: minilm (embedded), a Hugging Face id, or a folder.  [default: minilm]")
]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="Recipe (`smp recipes`), or a yaml file such as a run's settings.", autocompletion=completion.recipes
    ),
]
BaseModel = Annotated[
    str | None, typer.Option("--model", help="Where a mask's base model is, if elsewhere than when it was exported.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any other setting (`smp methods NAME`); may be given repeatedly."
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of all randomness.  [default: 0]")]
Output = Annotated[Path, typer.Option(help="Folder that gets a folder for this run.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the original data files, instead of the hub.  [default: $SMP_DATA_DIR]")
]
DevFile = Annotated[
    Path | None, typer.Option(help="Rows to evaluate on, beside a --task file of your own.  [default: a tenth of it]")
]
Epochs = Annotated[float | None, typer.Option(help="Passes over the training data.")]
MaxSteps = Annotated[int | None, typer.Option(help="Training steps, instead of --epochs.")]
BatchSize = Annotated[int | None, typer.Option(help="Training examples a step.  [default: the task's]")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.  [default: auto]")]
Track = Annotated[
    str | None,
    typer.Option(
        help="Also record the run with tensorboard, wandb, trackio or mlflow (to be installed beside smp).",
        autocompletion=lambda: ["tensorboard", "wandb", "trackio", "mlflow"],
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of an interrupted run.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Validate everything and print what would be done; downloads nothing.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; print only the result.")]
RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run's folder, e.g. results/sst2-smp-0.9-seed0-….", autocompletion=completion.runs
    ),
]
