"""One run, from settings to a run directory."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from smpcli.errors import Interrupted, UserError
from smpcli.files import exclusive
from smpcli.training.needs import check_output, disk_need
from smpcli.training.tracking import check_tracker, start_tracker

if TYPE_CHECKING:
    from smpcli.runs.rundir import RunDir
    from smpcli.runs.schema import FileInfo
    from smpcli.settings import Settings
    from smpcli.tasks.data import TaskData
    from smpcli.training.checkpoint import Identity
    from smpcli.training.checkpoint_contents import Saved
    from smpcli.training.loop import Summary
    from smpcli.training.progress import Step
    from smpcli.training.session import Session

# metrics.jsonl gets about this many rows of training loss.
METRIC_ROWS = 100


class RunObserver(Protocol):
    """What wants to know how a run goes on. One that has a method `note(text)` is told what is worth knowing."""

    def phase(self, name: str) -> None: ...
    def step(self, step: Step) -> None: ...


class _Unobserved:
    def phase(self, name: str) -> None: ...
    def step(self, step: Step) -> None: ...


def run_id(settings: Settings) -> str:
    """The run's folder: readable, and the same for the same settings."""
    from smpcli.runs.rundir import digest

    name = f"{settings.task.name}-{settings.pruner.name}-{settings.run.sparsity:g}-seed{settings.run.seed}"
    # The name of a person's own file may hold anything.
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}-{digest(settings.digested())[:8]}"


def run(
    settings: Settings,
    output: Path,
    progress: RunObserver | None = None,
    overwrite: bool = False,
    *,
    resume: bool = False,
    track: str | None = None,
) -> RunDir:
    """Carry out one run and return its directory; result.json is written last.

    Under `accelerate launch` every process calls this; one of them writes, and speaks through `progress`.
    resume: take the run as it is found: finished, it is returned; unfinished, it goes on from its last checkpoint;
    else it begins. track: a tracker that is told what metrics.jsonl is told; what it keeps in files goes to
    `output`/`track`. Raises UserError for what a person can mend (data, model, folder; a checkpoint of other
    settings, data or weights), Interrupted after Ctrl-C or SIGTERM, when a checkpoint is written.
    """
    progress = progress or _Unobserved()
    check_output(output)
    check_tracker(track)
    started = datetime.now(UTC)
    # Heavy, so only after what is checked in no time.
    from accelerate.utils import set_seed

    from smpcli.device import compute_of, make_accelerator
    from smpcli.encoding.cut import describe as describe_cut
    from smpcli.runs.rundir import CHECKPOINT, RESULT, RunDir
    from smpcli.runs.sources import files_of
    from smpcli.tasks.data import load_data
    from smpcli.tasks.describe import lines
    from smpcli.training.checkpoint import Identity
    from smpcli.training.checkpoint import read as read_checkpoint
    from smpcli.training.session import prepare

    accelerator = make_accelerator(settings.run.device, track, output / track if track else None)
    writes = accelerator.is_main_process
    compute = compute_of(accelerator, settings.run.precision)
    settings = settings.replace(precision=compute.precision)
    path = output / run_id(settings)
    if resume and (path / RESULT).exists():
        return _finished(path, writes)
    RunDir.refuse_finished(path, overwrite)
    _note(progress, str(compute))
    progress.phase("data")
    saved = read_checkpoint(path / CHECKPOINT) if resume else None
    data = load_data(settings.task, _path(settings.run.data_dir), dev_file=_path(settings.run.dev_file))
    # Now, as they may be gone when the run ends.
    files = files_of(settings)
    _note_blind_metrics(settings, data, progress)
    progress.phase("model")
    set_seed(settings.run.seed)
    session = prepare(settings, data, accelerator, progress.phase)
    if session.remark:
        _note(progress, session.remark)
    for note in session.model.notes:
        _note(progress, note)
    if not session.steps:
        _note(
            progress, f"{settings.pruner.name} trains nothing, so there are no steps; head=classifier trains a head"
        )
    teacher = session.teacher.digest if session.teacher else None
    identity = Identity(settings.digested(), data.digest, session.base_digest, teacher, accelerator.num_processes)
    if saved is not None and (differences := identity.differences(saved.about)):
        raise UserError(f"{path} can't be resumed, as it is another run; different: {', '.join(differences)}")
    for line in lines(settings.task, data):
        _note(progress, line)
    if cut := describe_cut(session.cut):
        _note(progress, cut)
    _check_disk(session, output, progress)
    # Only now: everything that a person can get wrong has been tried.
    with exclusive(path) if writes else nullcontext():
        if resume and (path / RESULT).exists():  # another process has finished it meanwhile
            return RunDir.open(path)
        directory = RunDir(path)
        if saved is not None:
            _note(progress, f"goes on after step {saved.about.step} of {session.steps}")
        if writes and saved is not None:
            directory = RunDir.resume(path, [dict(row) for row in saved.about.rows])
        elif writes:
            directory = RunDir.create(output, path.name, overwrite)
            directory.write_settings(settings.flat())
        start_tracker(track, accelerator, path.name, settings.flat())
        return _carry_out(session, data, files, directory, identity, saved, progress, started)


def _carry_out(
    session: Session,
    data: TaskData,
    files: dict[str, FileInfo],
    directory: RunDir,
    identity: Identity,
    saved: Saved | None,
    progress: RunObserver,
    started: datetime,
) -> RunDir:
    """Train, save, and leave a finished run, or one that can be resumed."""
    from smpcli.runs.rundir import CHECKPOINT
    from smpcli.training.checkpoint import Checkpoints
    from smpcli.training.interruption import Interruption
    from smpcli.training.processes import check_agreement
    from smpcli.training.result import make_result
    from smpcli.training.turnover import Turnover

    settings, accelerator = session.settings, session.accelerator
    writes = accelerator.is_main_process
    every = max(1, session.steps // METRIC_ROWS)
    turnover = Turnover(session.layers)

    def on_step(step: Step) -> None:
        progress.step(step)
        if step.metrics or (step.step % every == 0 and step.step < session.steps):
            row = {"density": step.density, "loss": step.loss, **step.metrics}
            row |= turnover.since_last() if step.metrics else {}
            if writes:
                directory.append_metrics({"step": step.step, **row})
                accelerator.log(row, step=step.step)

    with Interruption() as interruption:
        checkpoints = Checkpoints(
            directory.path / CHECKPOINT,
            identity,
            every=settings.run.checkpoint_every,
            metric=settings.task.metric,
            final=1 - settings.run.sparsity,
            rows=lambda: directory.rows,
            interruption=interruption,
            resume=_resume_command(directory.path),
            accelerator=accelerator,
            turnover=turnover,
            saved=saved,
        )
        progress.phase("training")
        summary = session.train(on_step, checkpoints, read_every=every)
        if summary.note:
            _note(progress, summary.note)
        if summary.best is not None:
            chosen = f"dev chose the model after step {summary.best.step:,} of {session.steps:,}"
            _note(progress, f"{chosen}, the best of {summary.best.among} evaluations at the final density")
        check_agreement(session.layers, accelerator)
        warnings = _check_masks(session) + summary.evaluation.warnings(data.labels)
        progress.phase("saving")
        if writes:
            _save(session, summary, directory)
            before = checkpoints.start.seconds
            directory.write_result(make_result(session, summary, data, files, directory, started, warnings, before))
            with suppress(OSError):  # the run is finished; what is left goes at the next start
                directory.tidy()
        # Nobody reads a run that isn't written yet.
        accelerator.wait_for_everyone()
        accelerator.end_training()
    for warning in warnings:
        _note(progress, f"warning: {warning}")
    progress.phase("done")
    if interruption.signal:
        raise Interrupted(interruption.code, f"interrupted, but not before the run was finished: {directory.path}")
    return directory


def _finished(path: Path, writes: bool) -> RunDir:
    from smpcli.runs.rundir import RunDir

    directory = RunDir.open(path)
    if writes:
        with exclusive(path), suppress(OSError):
            directory.tidy()
    return directory


def _note(progress: RunObserver, text: str) -> None:
    note = getattr(progress, "note", None)
    if note is not None:
        note(text)


def _note_blind_metrics(settings: Settings, data: TaskData, progress: RunObserver) -> None:
    from smpcli.kinds import KINDS

    for split, examples in data.dev.items():
        if reason := KINDS[settings.task.kind].undefined(settings.task.metrics, examples):
            _note(progress, f"warning: dev set '{split}': {reason}")


def _check_disk(session: Session, output: Path, progress: RunObserver) -> None:
    """Say what the run will write at most; refuse where that doesn't fit."""
    from pruners.masking import running_numbers
    from pruners.masks.stack import score_parameters
    from smpcli.text import human_bytes

    trained = sum(weight.numel() for weight in session.weights)
    scores = sum(part.numel() for part in score_parameters(session.layers))
    weights = trained if session.pruner.trains_weights else 0
    settings = session.settings
    best = settings.run.select == "best"
    running = running_numbers(session.pruner, session.layers)
    need = disk_need(trained + scores, weights, session.prunable, settings.run.checkpoint_every, best, running)
    place = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < need:
        raise UserError(
            f"{output} has {human_bytes(free)} free, and the run needs up to {human_bytes(need)}",
            "make room, choose another place with --output, or keep fewer checkpoints with --set checkpoint_every=0",
        )
    _note(progress, f"needs up to {human_bytes(need)} of disk while it runs; {human_bytes(free)} are free")


def _check_masks(session: Session) -> list[str]:
    """Warnings about the final masks. Raises UserError where they don't have the sparsity that was asked for."""
    from pruners.masking import kept
    from pruners.masks.allocation import kept_weights

    if not session.layers:
        return []
    wanted, found = kept_weights(1 - session.settings.run.sparsity, session.prunable), kept(session.layers)
    nonzero = sum(int(layer.effective.count_nonzero()) for layer in session.layers)
    if found != wanted or nonzero > wanted:
        raise UserError(
            f"method '{session.pruner.name}' left {found:,} weights in its masks and {nonzero:,} in the model, where "
            f"a sparsity of {session.settings.run.sparsity:g} leaves {wanted:,}: the method is at fault"
        )
    return [f"nothing is left of {layer.name}: its mask is empty" for layer in session.layers if not layer.mask.any()]


def _resume_command(path: Path) -> str:
    """The command that goes on with a run: the one given, or for a run from elsewhere one by its settings."""
    if Path(sys.argv[0]).stem in ("smp", "__main__") and sys.argv[1:2] in (["prune"], ["finetune"]):
        given = [argument for argument in sys.argv[1:] if argument not in ("--resume", "--overwrite")]
    else:
        given = ["prune", "--recipe", str(path / "settings.yaml"), "--output", str(path.parent)]
    return shlex.join(["smp", *given, "--resume"])


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None


def _save(session: Session, summary: Summary, directory: RunDir) -> None:
    """Masks, the task's own head, trained weights, and the prediction of every dev example."""
    from smpcli.evaluation.evaluate import prediction_rows
    from smpcli.evaluation.restore import head_tensors, trained_tensors

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
    if session.settings.task.traits.squad:
        directory.write_answers({row["id"]: row["prediction"] for found in rows.values() for row in found})
