"""One run, from settings to a run directory."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from smpcli.training.plan import check_output

if TYPE_CHECKING:
    from smpcli.results.rundir import RunDir
    from smpcli.settings import Settings
    from smpcli.tasks.data import TaskData
    from smpcli.training.loop import Step, Summary
    from smpcli.training.session import Session

# metrics.jsonl gets about this many rows of training loss.
METRIC_ROWS = 100


class Progress(Protocol):
    """Whoever wants to know how a run goes on."""

    def phase(self, name: str) -> None: ...
    def step(self, step: Step) -> None: ...


def run_id(settings: Settings) -> str:
    """The run's folder: readable, and the same for the same settings."""
    from smpcli.results.rundir import digest

    name = f"{settings.task.name}-{settings.pruner.name}-{settings.sparsity:g}-seed{settings.seed}"
    # The name of a person's own file may hold anything.
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}-{digest(settings.digested())[:8]}"


def run(settings: Settings, output: Path, progress: Progress, overwrite: bool = False) -> RunDir:
    """Carry out one run and return its directory; result.json is written last.

    Raises UserError for what a person can mend (data, model, folder).
    """
    check_output(output)
    started = datetime.now(UTC)
    progress.phase("data")
    # Heavy, so only after what is checked in no time.
    from accelerate.utils import set_seed

    from smpcli.results.rundir import RunDir
    from smpcli.results.sources import files_of
    from smpcli.tasks.data import load_data
    from smpcli.training.device import make_accelerator, resolve_precision
    from smpcli.training.session import prepare
    from smpcli.training.turnover import Turnover

    accelerator = make_accelerator(settings.device)
    settings = settings.replace(precision=resolve_precision(settings.precision, accelerator.device))
    RunDir.refuse_finished(output / run_id(settings), overwrite)
    data = load_data(settings.task, _path(settings.data_dir), dev_file=_path(settings.dev_file))
    # Now, as they may be gone when the run ends.
    files = files_of(settings)
    progress.phase("model")
    set_seed(settings.seed)
    session = prepare(settings, data, accelerator, progress.phase)
    # Only now: everything that a person can get wrong has been tried.
    directory = RunDir.create(output, run_id(settings), overwrite)
    directory.write_settings(settings.flat())
    every = max(1, session.steps // METRIC_ROWS)
    turnover = Turnover(session.layers)

    def on_step(step: Step) -> None:
        progress.step(step)
        if step.metrics or (step.step % every == 0 and step.step < session.steps):
            row = {"step": step.step, "density": step.density, "loss": step.loss, **step.metrics}
            directory.append_metrics(row | (turnover.since_last() if step.metrics else {}))

    progress.phase("training")
    summary = session.train(on_step)
    progress.phase("saving")
    _save(session, summary, directory)
    directory.write_result(_result(session, summary, data, files, directory, started))
    progress.phase("done")
    return directory


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None


def _save(session: Session, summary: Summary, directory: RunDir) -> None:
    """Masks, the task's own head, trained weights, and the prediction of every dev example."""
    from smpcli.modeling.restore import head_tensors, trained_tensors
    from smpcli.training.evaluate import prediction_rows

    if session.layers:
        directory.write_masks({layer.name: layer.mask.cpu() for layer in session.layers})
    for name, tensors in (
        ("head.safetensors", head_tensors(session.model)),
        (
            "weights.safetensors",
            trained_tensors(session.model, session.layers) if session.pruner.trains_weights else {},
        ),
    ):
        if tensors:
            directory.write_tensors(name, tensors)
    rows = {split: prediction_rows(dev, summary.evaluation.predictions[split]) for split, dev in session.dev.items()}
    directory.write_predictions(rows)
    if session.settings.task.kind == "span":
        directory.write_answers({row["id"]: row["prediction"] for found in rows.values() for row in found})


def _result(
    session: Session,
    summary: Summary,
    data: TaskData,
    files_read: dict[str, dict[str, Any]],
    directory: RunDir,
    started: datetime,
) -> dict[str, Any]:
    from pruners.masking import kept
    from smpcli.results.rundir import digest

    settings = session.settings
    metric = settings.task.metric
    count = kept(session.layers) if session.layers else session.prunable
    files = directory.sizes()
    return {
        "schema": 1,
        "run": {
            "id": directory.path.name,
            "method": settings.pruner.name,
            "task": settings.task.name,
            "model": settings.model,
            "sparsity": settings.sparsity,
            "remaining": count / session.prunable,
            "seed": settings.seed,
            "settings_digest": digest(settings.digested()),
            "command": _command(),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - started).total_seconds(), 3),
        },
        "metric": metric,
        "metrics": summary.evaluation.metrics,
        "weights": {
            "total": sum(parameter.numel() for parameter in session.model.parameters()),
            "prunable": session.prunable,
            "kept": count,
            "trained": sum(weight.numel() for weight in session.weights),
        },
        "task_bytes": _task_bytes(session, files),
        "files": files,
        "method": {"report": session.pruner.report(session.layers)},
        "data": {
            "digest": data.digest,
            "origin": data.origin,
            "train": len(data.train),
            "dev": {split: len(examples) for split, examples in data.dev.items()},
            "dev_digests": data.dev_digests,
            "files": files_read,
        },
        "model": {"name": settings.model, "digest": session.base_digest, "head": session.model.head},
        "training": {
            "steps": session.steps,
            "batch_size": settings.batch_size,
            "seconds_per_step": summary.seconds / session.steps,
            "metric_history": [[step, found[metric]] for step, found in summary.history],
            **({"teacher": session.teacher} if session.teacher else {}),
        },
        "environment": environment(str(session.accelerator.device)),
    }


def _task_bytes(session: Session, files: dict[str, int]) -> int:
    """What storing the task costs: head, trained weights, and the mask as the mask format holds it."""
    from smpcli.results.masks import compress

    payloads, _, _ = compress({layer.name: layer.mask for layer in session.layers})
    rest = sum(size for name, size in files.items() if name in ("head.safetensors", "weights.safetensors"))
    return rest + sum(payload.numel() for payload in payloads.values())


def _command() -> str:
    """The command line, or for a run from Python the one that repeats it in the run's folder."""
    if Path(sys.argv[0]).stem in ("smp", "__main__"):
        return shlex.join(["smp", *sys.argv[1:]])
    return "smp prune --recipe settings.yaml"


def environment(device: str) -> dict[str, Any]:
    """Versions and machine that a result was made with."""
    from importlib.metadata import version

    import torch

    return {
        "smp": version("smp-prune"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
    }
