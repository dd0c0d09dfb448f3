"""How long a sweep will take, from measured steps: those of finished runs, or a few made for the purpose."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smpcli.errors import UserError
from smpcli.runs.rundir import RunDir, RunError, is_run
from smpcli.sweeping.grid import Job
from smpcli.sweeping.sweep import SweepRun

WARM_UP, MEASURED = 2, 12
# What decides a step's time, beside the method.
_SHAPE = ("task", "model", "batch_size", "max_length", "precision", "head")


@dataclass(frozen=True)
class Cost:
    """Seconds of a step, and of everything else in a run together; source: where they were measured."""

    step: float
    rest: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """seconds of each run that is still to be made, by id (None: nothing was measured that is like it)."""

    seconds: dict[str, float | None]
    sources: list[str]
    workers: int

    @property
    def total(self) -> float | None:
        """Seconds until all is done, workers never idle; None where a run's time isn't known."""
        known = [seconds for seconds in self.seconds.values() if seconds is not None]
        return sum(known) / self.workers if len(known) == len(self.seconds) else None

    @property
    def unknown(self) -> int:
        return sum(seconds is None for seconds in self.seconds.values())


def estimate(runs: list[SweepRun], output: Path, workers: int, calibrate: bool) -> Estimate:
    """The time of every waiting run. With `calibrate`, a few steps are made where no finished run tells."""
    measured = _measure(output)
    seconds: dict[str, float | None] = {}
    sources: list[str] = []
    for run in runs:
        if run.state != "waiting":
            continue
        shape = _shape(run.job.settings.flat())
        method = run.job.settings.pruner.name
        if calibrate and (shape, method) not in measured:
            # What can't be run can't be timed; the sweep itself will say why.
            with suppress(UserError):
                measured[shape, method] = [_calibrate(run.job)]
        costs = measured.get((shape, method))
        if costs is None or run.steps is None:
            seconds[run.job.id] = None
            continue
        # The median: some runs will have been measured beside others.
        step, rest = (statistics.median(getattr(cost, part) for cost in costs) for part in ("step", "rest"))
        seconds[run.job.id] = step * run.steps + rest
        sources += sorted({cost.source for cost in costs} - set(sources))
    return Estimate(seconds, sources, workers)


def _shape(settings: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(settings.get(key) for key in _SHAPE)


def _measure(output: Path) -> dict[tuple[Any, str], list[Cost]]:
    """What the finished runs below a folder took, by shape and method. A run's evaluations count among its steps."""
    found: dict[tuple[Any, str], list[Cost]] = {}
    for path in _runs(output):
        try:
            run = RunDir.open(path)
            result, settings = run.result, run.settings
        except RunError:
            continue
        step = result.training.seconds_per_step
        cost = Cost(step, max(0.0, result.run.seconds - step * result.training.steps), f"finished runs in {output}")
        found.setdefault((_shape(settings), result.run.method), []).append(cost)
    return found


def _runs(output: Path) -> Iterable[Path]:
    return [path for path in sorted(output.iterdir()) if is_run(path)] if output.is_dir() else []


class _Clock:
    """Notes when phases begin and steps end."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.phases: dict[str, float] = {}

    def phase(self, name: str) -> None:
        self.phases[name] = time.perf_counter()

    def step(self, step: Any) -> None:
        self.steps.append(time.perf_counter())


def _calibrate(job: Job) -> Cost:
    """A few steps of a run, made in a folder that is gone afterwards."""
    from smpcli.training.run import run

    clock = _Clock()
    steps = WARM_UP + MEASURED
    settings = job.settings.replace(epochs=None, max_steps=steps, evaluations=1)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="smp-calibration-") as folder:
        run(settings, Path(folder), clock)
    ended = time.perf_counter()
    if not settings.trains:
        return Cost(0.0, ended - begun, "a run without steps")
    # The last call is that of the evaluation at the end.
    trained = clock.steps[:steps]
    step = (trained[-1] - trained[WARM_UP - 1]) / MEASURED
    evaluation = clock.phases["saving"] - trained[-1]
    setup = clock.phases["training"] - begun + ended - clock.phases["saving"]
    return Cost(step, setup + job.settings.run.evaluations * evaluation, f"{MEASURED} steps of calibration")
