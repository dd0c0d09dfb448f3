"""smp prune and smp finetune."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli import api, console
from smpcli.commands import live, options
from smpcli.errors import UserError

if TYPE_CHECKING:
    from smpcli.dry_run import Plan
    from smpcli.runs.rundir import RunDir


def prune(
    task: options.Task = None,
    method: options.Method = None,
    sparsity: options.Sparsity = None,
    model: options.Model = None,
    recipe: options.Recipe = None,
    set_: options.Set = None,
    seed: options.Seed = None,
    epochs: options.Epochs = None,
    max_steps: options.MaxSteps = None,
    batch_size: options.BatchSize = None,
    output: options.Output = Path("results"),
    data_dir: options.DataDir = None,
    dev_file: options.DevFile = None,
    device: options.Device = None,
    track: options.Track = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Prune a model for a task.

    For example: smp prune --method smp --task movies --sparsity 0.9
    """
    flags = {
        "task": task,
        "method": method,
        "sparsity": sparsity,
        "model": model,
        "recipe": recipe,
        "seed": seed,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "data_dir": data_dir,
        "dev_file": dev_file,
        "device": device,
    }
    from smpcli.settings import parse_assignment

    # A flag wins over the same key in --set.
    arguments: dict[str, Any] = dict(map(parse_assignment, set_ or []))
    arguments |= {key: value for key, value in flags.items() if value is not None}
    if resume and (overwrite or dry_run):
        raise UserError(
            f"--resume and {'--overwrite' if overwrite else '--dry-run'} are mutually exclusive", "give one"
        )
    if dry_run:
        _show_plan(api.plan(**arguments, output=output), json)
        return
    with live.RunDisplay(quiet or json) as progress:
        run = api.prune(
            **arguments, output=output, overwrite=overwrite, resume=resume, track=track, progress=progress
        )
    _show_run(run, json, quiet)


def finetune(
    task: options.Task = None,
    model: options.Model = None,
    recipe: options.Recipe = None,
    set_: options.Set = None,
    seed: options.Seed = None,
    epochs: options.Epochs = None,
    max_steps: options.MaxSteps = None,
    batch_size: options.BatchSize = None,
    output: options.Output = Path("results"),
    data_dir: options.DataDir = None,
    dev_file: options.DevFile = None,
    device: options.Device = None,
    track: options.Track = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Fine-tune without pruning: the baseline.

    Every comparison is with such a dense run.
    """
    given = locals()
    prune(method="dense", **given)


def _show_plan(plan: Plan, as_json: bool) -> None:
    from smpcli.comparison.beside import percent
    from smpcli.encoding.cut import describe as describe_cut

    content = dataclasses.asdict(plan)
    del content["cut"]
    data_lines = content.pop("data_lines")
    if as_json:
        cut = None if plan.cut is None else {name: one.to_json() for name, one in plan.cut.items()}
        console.data_json({**content, "cut": cut})
        return
    settings, schedule = content.pop("settings"), content.pop("schedule")
    del content["compute"], content["data"], content["published"]
    console.show(
        console.table("Settings", ["key", "value"], [(key, _text(value)) for key, value in settings.items()])
    )
    unknown = "not known before the download"
    rows = [
        (name.replace("_", " "), unknown if value is None else _number(name, value))
        for name, value in content.items()
    ]
    rows.insert(0, ("compute", str(plan.compute)))
    rows.append(("texts that are cut", unknown if plan.cut is None else describe_cut(plan.cut) or "none"))
    console.show(console.table("Plan", ["what", "figure"], rows))
    for line in data_lines:
        console.data(line)
    if schedule:
        points = [
            (f"{10 * tenth} %", "" if step is None else f"{step:,}", f"{density:.2%}", f"{penalty:g}")
            for tenth, (step, density, penalty) in enumerate(schedule)
        ]
        console.show(console.table("Schedule", ["of the run", "step", "remaining", "penalty weight"], points))
    if plan.published:
        figures = [(row.label, percent(row.remaining), row.metric, row.per_cent) for row in plan.published]
        sources = "; ".join(dict.fromkeys(row.source for row in plan.published))
        title = f"Published, to stand beside this run's result ({sources})"
        console.show(console.table(title, ["method", "remaining", "metric", "figure"], figures))


def _number(name: str, value: int) -> str:
    return f"about {value / 2**20:,.0f} MiB" if name.endswith("_bytes") else f"{value:,}"


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _show_run(run: RunDir, as_json: bool, quiet: bool) -> None:
    result = run.result
    if as_json:
        console.data_json(result.model_dump(mode="json"))
    elif quiet:
        console.data(str(run.path))
    else:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        weights = result.weights
        console.data(f"{metrics} on {', '.join(f'{n:,} {split}' for split, n in result.data.dev.items())} examples")
        console.data(
            f"{weights.kept:,} of {weights.prunable:,} prunable weights remain ({result.run.remaining:.2%}), "
            f"{weights.trained:,} weights trained, {result.task_bytes:,} bytes for this task"
        )
        if selected := result.training.selected:
            console.data(
                f"dev chose the model after step {selected.step:,} of {result.training.steps:,}: "
                f"its {selected.metric} is the best of {selected.among} evaluations at the final density"
            )
        if report := result.method.report:
            console.data(
                f"{result.run.method}: " + ", ".join(f"{name} {value:.6g}" for name, value in report.items())
            )
        console.data(str(run.path))
