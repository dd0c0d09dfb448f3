"""Carrying out a sweep: what is finished stays, what isn't is made, and a run that fails stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from smpcli.errors import EXIT_INTERRUPTED, EXIT_USER, Interrupted, joined
from smpcli.runs.rundir import RESULT, RunDir, RunError, digest
from smpcli.runs.schema import Result
from smpcli.sweeping.engines import Engine, Outcome
from smpcli.sweeping.grid import Job

State = Literal["waiting", "running", "finished", "failed"]
POLL_SECONDS = 0.5


@dataclass
class SweepRun:
    """A run of the sweep as it stands. seconds: since its start, or what it took; steps: None where not known."""

    job: Job
    path: Path
    steps: int | None = None
    state: State = "waiting"
    #: True where it was finished before this sweep began.
    before: bool = False
    step: int = 0
    density: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    exit_code: int | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        settings = self.job.settings
        return {
            "id": self.job.id,
            "path": str(self.path),
            "task": settings.task.name,
            "method": settings.pruner.name,
            "sparsity": settings.run.sparsity,
            "seed": settings.run.seed,
            "state": self.state,
            "before": self.before,
            "steps": self.steps,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "exit_code": self.exit_code,
            "error": self.error,
        }


class SweepObserver(Protocol):
    """What wants to know how a sweep goes on: when a run begins or ends, and several times a second.

    One that has a method `note(text)` is told what is worth knowing.
    """

    def changed(self, run: SweepRun) -> None: ...
    def tick(self, runs: list[SweepRun]) -> None: ...


class _Unobserved:
    def changed(self, run: SweepRun) -> None: ...
    def tick(self, runs: list[SweepRun]) -> None: ...


def survey(jobs: Iterable[Job], output: Path, count_steps: Callable[[Job], int | None]) -> list[SweepRun]:
    """The runs of a sweep as they lie in `output`: finished, or waiting to be made (again)."""
    runs = []
    for job in jobs:
        run = SweepRun(job, output / job.id, count_steps(job))
        if (run.path / RESULT).exists():
            _close(run)
            run.before = run.state == "finished"
        runs.append(run)
    return runs


def carry_out(runs: list[SweepRun], output: Path, engine: Engine, watcher: SweepObserver | None = None) -> None:
    """Make every run that waits. Afterwards each is finished or failed; what ends this early ends the runs too.

    Raises `Interrupted` on Ctrl-C and SIGTERM.
    """
    watcher = watcher or _Unobserved()
    by_id = {run.job.id: run for run in runs}
    started: dict[str, float] = {}
    try:
        while any(run.state in ("waiting", "running") for run in runs):
            for name, outcome in engine.ended().items():
                run = by_id[name]
                _end(run, outcome)
                run.seconds = run.seconds if run.seconds is not None else time.monotonic() - started[name]
                watcher.changed(run)
            for run in runs:
                if run.state == "waiting" and (broken := _broken_teacher(run, by_id)):
                    run.state, run.error = "failed", f"its teacher {broken.job.id} failed"
                    watcher.changed(run)
            ready = [run for run in runs if run.state == "waiting" and _taught(run, by_id)]
            for run in ready[: engine.slots - sum(run.state == "running" for run in runs)]:
                job = {"id": run.job.id, "settings": run.job.settings.flat(), "output": str(output)}
                engine.start(run.job.id, job)
                run.state, started[run.job.id] = "running", time.monotonic()
                watcher.changed(run)
            if engine.remark:
                _note(watcher, engine.remark)
                engine.remark = ""
            for run in runs:
                if run.state == "running":
                    run.seconds = time.monotonic() - started[run.job.id]
                    _look(run)
            watcher.tick(runs)
            time.sleep(POLL_SECONDS)
    except (KeyboardInterrupt, Interrupted) as stop:
        done = sum(run.state == "finished" for run in runs)
        raise Interrupted(
            stop.code if isinstance(stop, Interrupted) else EXIT_INTERRUPTED,
            f"interrupted; {done} of {len(runs)} runs are finished, the same command goes on",
        ) from None
    finally:
        engine.stop()


def _note(watcher: SweepObserver, text: str) -> None:
    note = getattr(watcher, "note", None)
    if note is not None:
        note(text)


def _taught(run: SweepRun, by_id: dict[str, SweepRun]) -> bool:
    return run.job.teacher is None or by_id[run.job.teacher].state == "finished"


def _broken_teacher(run: SweepRun, by_id: dict[str, SweepRun]) -> SweepRun | None:
    teacher = by_id[run.job.teacher] if run.job.teacher else None
    return teacher if teacher and teacher.state == "failed" else None


def _look(run: SweepRun) -> None:
    """How far a running run is, by its own folder: the same for every engine."""
    try:
        rows = RunDir(run.path).metrics
    except RunError:
        return
    if rows and isinstance(rows[-1].get("step"), int):
        run.step, run.density = rows[-1]["step"], rows[-1].get("density")
        for row in rows:
            run.metrics |= {key: row[key] for key in run.job.settings.task.metrics if key in row}


def _end(run: SweepRun, outcome: Outcome) -> None:
    if outcome.code != 0:
        run.state, run.exit_code, run.error = "failed", outcome.code, outcome.message
    elif (run.path / RESULT).exists():
        _close(run)
    else:
        run.state, run.exit_code = "failed", EXIT_USER
        run.error = "it was made where this machine can't see it: --output must be a folder that all machines share"


def _close(run: SweepRun) -> None:
    """Take a finished run's result; what can't be trusted counts as failed."""
    try:
        result: Result = RunDir.open(run.path).result
        if result.run.settings_digest != digest(run.job.settings.digested()):
            raise RunError(run.path, "a run of other settings")
    except RunError as error:
        run.state, run.exit_code = "failed", EXIT_USER
        run.error = joined(error.reason, f"delete {run.path}, then sweep again")
        return
    run.state, run.exit_code, run.step = "finished", 0, result.training.steps
    run.steps, run.metrics, run.seconds = result.training.steps, result.metrics, result.run.seconds
    run.density = result.run.remaining
