"""smp eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smpcli import api, console
from smpcli.commands import completion, options
from smpcli.errors import EXIT_INTERNAL, UserError


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run's folder.", autocompletion=completion.runs)
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Instead of a run: an .npy mask as SMP's authors release them, with --task.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --mask: the base model it belongs to.  [default: bert-base-uncased]")
    ] = None,
    task: Annotated[str | None, typer.Option(help="With --mask: the task to evaluate on.")] = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Recompute a run's metrics from its folder, and check them against its result.json; or evaluate a mask alone.

    For example: smp eval --mask mnli.npy --model bert-base-uncased --task mnli
    """
    if (run is None) == (mask is None):
        raise UserError("smp eval takes a run's folder, or --mask FILE.npy with --task: one of the two")
    if mask is not None:
        if task is None:
            raise UserError("--mask needs a --task to evaluate on, such as --task mnli")
        if not mask.exists():
            raise UserError(f"there is no mask file {mask}")
        return _show_mask(mask, model or "bert-base-uncased", task, data_dir, json, quiet)
    if model is not None or task is not None:
        raise UserError("--model and --task go with --mask: a run has its own")
    assert run is not None
    found = api.evaluate(run, data_dir=data_dir)
    if json:
        said = {"recorded": found.recorded, "agrees": found.agrees, "warnings": found.warnings}
        console.data_json({"metrics": found.metrics, **said})
    else:
        for name, value in found.metrics.items():
            console.data(f"{name} {value!r}")
        _warn(found.warnings, quiet)
        if found.left_out and not quiet:
            console.talk(f"not recomputed, as the folder lacks their dev set: {', '.join(found.left_out)}")
        if found.agrees and not quiet:
            console.talk("agrees with result.json to the last digit")
    if not found.agrees:
        console.error(f"result.json of {run} says {found.recorded}, this machine finds {found.metrics}")
        return EXIT_INTERNAL
    return 0


def _show_mask(mask: Path, model: str, task: str, data_dir: Path | None, json: bool, quiet: bool) -> int:
    found = api.evaluate_mask(mask, model=model, task=task, data_dir=data_dir)
    if json:
        counts = {"kept": found.kept, "prunable": found.prunable}
        console.data_json({"metrics": found.metrics, **counts, "warnings": found.warnings})
        return 0
    for name, value in found.metrics.items():
        console.data(f"{name} {value!r}")
    _warn(found.warnings, quiet)
    if not quiet:
        share = found.kept / found.prunable
        console.talk(f"{found.kept:,} of {found.prunable:,} prunable weights remain ({share:.2%})")
    return 0


def _warn(warnings: list[str], quiet: bool) -> None:
    for warning in [] if quiet else warnings:
        console.talk(f"warning: {warning}")
