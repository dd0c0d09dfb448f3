"""smp eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from smpcli import api, console
from smpcli.commands import completion, options
from smpcli.errors import EXIT_INTERNAL, UserError

if TYPE_CHECKING:
    from smpcli.encoding.cut import Cut
    from smpcli.evaluation.released import Released


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
    words: Annotated[
        Literal["task", "released"] | None,
        typer.Option(
            help="With --mask: the label words it was trained with, the task's or those of the authors' files. "
            "Needed where they differ (mnli).",
        ),
    ] = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Recompute the metrics of a run or a mask.

    A run's come from its folder alone and are checked against its result.json.

    For example: smp eval --mask mnli_0.03_kd_mag.npy --task mnli --words released
    """
    if (run is None) == (mask is None):
        raise UserError("smp eval takes a run's folder, or --mask FILE.npy with --task: one of the two")
    if mask is not None:
        if task is None:
            raise UserError("--mask needs a --task to evaluate on, such as --task mnli")
        if not mask.exists():
            raise UserError(f"there is no mask file {mask}")
        base = model or "bert-base-uncased"
        return _show_mask(api.evaluate_mask(mask, model=base, task=task, words=words, data_dir=data_dir), json, quiet)
    if model is not None or task is not None or words is not None:
        raise UserError("--model, --task and --words go with --mask: a run has its own")
    assert run is not None
    found = api.evaluate(run, data_dir=data_dir)
    if json:
        said = {"recorded": found.recorded, "agrees": found.agrees, "warnings": found.warnings}
        console.data_json({"metrics": found.metrics, **said, "cut": _to_json(found.cut)})
    else:
        for name, value in found.metrics.items():
            console.data(f"{name} {value!r}")
        for note in () if quiet else found.notes:
            console.talk(note)
        _say_cut(found.cut, quiet)
        _warn(found.warnings, quiet)
        if found.left_out and not quiet:
            console.talk(f"not recomputed, as the folder lacks their dev set: {', '.join(found.left_out)}")
        if found.agrees and not quiet:
            console.talk("agrees with result.json to the last digit")
    if not found.agrees:
        console.error(f"result.json of {run} says {found.recorded}, this machine finds {found.metrics}")
        return EXIT_INTERNAL
    return 0


def _show_mask(found: Released, json: bool, quiet: bool) -> int:
    if json:
        shown = ("metrics", "kept", "prunable", "words", "warnings")
        console.data_json({**{name: getattr(found, name) for name in shown}, "cut": _to_json(found.cut)})
        return 0
    for name, value in found.metrics.items():
        console.data(f"{name} {value!r}")
    _say_cut(found.cut, quiet)
    _warn(found.warnings, quiet)
    if not quiet:
        share = found.kept / found.prunable
        console.talk(f"{found.kept:,} of {found.prunable:,} prunable weights remain ({share:.2%})")
        console.talk("read by the label words " + ", ".join(f"{name} = {word}" for name, word in found.words.items()))
    return 0


def _warn(warnings: list[str], quiet: bool) -> None:
    for warning in [] if quiet else warnings:
        console.talk(f"warning: {warning}")


def _say_cut(cut: dict[str, Cut], quiet: bool) -> None:
    from smpcli.encoding.cut import describe

    if not quiet and (line := describe(cut)):
        console.talk(line)


def _to_json(cut: dict[str, Cut]) -> dict[str, Any]:
    return {name: one.to_json() for name, one in cut.items()}
