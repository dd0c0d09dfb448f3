"""What a finished run says of itself: result.json, made of the models that also read it."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pruners.masking import kept
from smpcli.modeling.layers import attention_heads
from smpcli.runs.maskfile import compress
from smpcli.runs.rundir import HEAD, WEIGHTS, RunDir, digest
from smpcli.runs.schema import (
    SCHEMA,
    CutInfo,
    DataInfo,
    Environment,
    FileInfo,
    MethodInfo,
    ModelInfo,
    Result,
    RunInfo,
    SelectedInfo,
    TrainingInfo,
    Weights,
)
from smpcli.tasks.describe import describe

if TYPE_CHECKING:
    from accelerate import Accelerator

    from smpcli.tasks.data import TaskData
    from smpcli.training.loop import Summary
    from smpcli.training.session import Session


def make_result(
    session: Session,
    summary: Summary,
    data: TaskData,
    files_read: dict[str, FileInfo],
    directory: RunDir,
    started: datetime,
    warnings: list[str],
    seconds_before: float,
) -> Result:
    """The result of a run whose files are written; seconds_before: that it took before it was resumed."""
    settings, model = session.settings, session.model
    metric = settings.task.metric
    count = kept(session.layers) if session.layers else session.prunable
    files = directory.sizes()
    best = summary.best
    return Result(
        schema=SCHEMA,
        run=RunInfo(
            id=directory.path.name,
            method=settings.pruner.name,
            task=settings.task.name,
            model=settings.run.model,
            sparsity=settings.run.sparsity,
            remaining=count / session.prunable,
            seed=settings.run.seed,
            settings_digest=digest(settings.digested()),
            command=_command(),
            started=started.isoformat(timespec="seconds"),
            seconds=round((datetime.now(UTC) - started).total_seconds() + seconds_before, 3),
        ),
        metric=metric,
        metrics=summary.evaluation.metrics,
        weights=Weights(
            total=sum(parameter.numel() for parameter in model.parameters()),
            prunable=session.prunable,
            kept=count,
            trained=sum(weight.numel() for weight in session.weights),
        ),
        task_bytes=_task_bytes(session, files),
        files=files,
        method=MethodInfo(report=best.report if best else session.pruner.report(session.layers)),
        data=DataInfo(
            digest=data.digest,
            origin=data.origin,
            train=len(data.train),
            dev={split: len(examples) for split, examples in data.dev.items()},
            dev_digests=data.dev_digests,
            files=files_read,
            special_tokens=session.special_tokens,
            cut={name: CutInfo(**cut.to_json()) for name, cut in session.cut.items()},
            **describe(settings.task, data),
        ),
        model=ModelInfo(
            name=settings.run.model,
            digest=session.base_digest,
            head=model.head,
            words=settings.task.words if model.head == "words" else None,
            heads=attention_heads(model.config) or None,
        ),
        training=TrainingInfo(
            steps=session.steps,
            batch_size=settings.run.batch_size,
            seconds_per_step=summary.seconds / session.steps if session.steps else 0.0,
            metric_history=[(step, found[metric]) for step, found in summary.history],
            teacher=session.teacher,
            selected=SelectedInfo(step=best.step, on="dev", metric=metric, among=best.among) if best else None,
        ),
        environment=environment(session.accelerator),
        warnings=warnings,
    )


def _task_bytes(session: Session, files: dict[str, int]) -> int:
    """What storing the task costs: head, trained weights, and the mask as the mask format holds it."""
    payloads, _, _ = compress({layer.name: layer.mask for layer in session.layers})
    rest = sum(size for name, size in files.items() if name in (HEAD, WEIGHTS))
    return rest + sum(payload.numel() for payload in payloads.values())


def _command() -> str:
    """The command line, or for a run from Python the one that repeats it in the run's folder."""
    if Path(sys.argv[0]).stem in ("smp", "__main__"):
        return shlex.join(["smp", *sys.argv[1:]])
    return "smp prune --recipe settings.yaml"


def environment(accelerator: Accelerator) -> Environment:
    """Versions and machine that a result was made with."""
    return Environment(
        smp=version("smp-prune"),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version("transformers"),
        platform=platform.platform(),
        device=str(accelerator.device),
        threads=torch.get_num_threads(),
        processes=accelerator.num_processes,
    )
