"""Live displays of what goes on: a run's bar, a sweep's table; plain lines where stderr isn't a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from smpcli import console

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress, TaskID

    from smpcli.sweeping.sweep import SweepRun
    from smpcli.training.progress import Step

# Where the output isn't a terminal, a run prints about this many lines.
PLAIN_LINES = 20


class RunDisplay:
    """How a run goes on: a live bar where stderr is a terminal, now and then a line where it is not."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet or not console.speaks()
        self.metrics = ""
        self.started = 0.0
        self.bar: Progress | None = None
        self.bar_task: TaskID | None = None

    def __enter__(self) -> RunDisplay:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            screen = Console(stderr=True)
            self.bar = Progress(
                TextColumn("{task.description}"),
                # What the figures leave: at 80 columns that is not much.
                BarColumn(bar_width=max(3, min(30, screen.width - 78))),
                TextColumn("{task.fields[status]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True),
                console=screen,
            )
            self.bar.start()
            self.bar_task = self.bar.add_task("starting", total=None, status="")
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def phase(self, name: str) -> None:
        """What the run does now: data, model, training, saving, done."""
        self.started = time.monotonic()
        if self.bar is not None and self.bar_task is not None:
            self.bar.update(self.bar_task, description=name)
        elif not self.quiet and name != "done":
            console.talk(f"{name} …")

    def note(self, text: str) -> None:
        """Something worth knowing, above the bar."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            console.talk(text)

    def step(self, step: Step) -> None:
        """After each training step, and after the last evaluation."""
        if step.metrics:
            shown = list(step.metrics.items())
            # The bar has room for the task's first metric.
            self.metrics = "  ".join(f"{name} {value:.4f}" for name, value in (shown[:1] if self.bar else shown))
        if self.bar is not None and self.bar_task is not None:
            self.bar.update(self.bar_task, completed=step.step, total=step.steps, status=self._status(step, " "))
        elif not self.quiet and not step.steps:
            console.talk(self._status(step))
        elif not self.quiet and (
            step.metrics or (step.step < step.steps and step.step % max(1, step.steps // PLAIN_LINES) == 0)
        ):
            left = (time.monotonic() - self.started) / step.step * (step.steps - step.step)
            console.talk(f"{self._status(step)}  ETA {int(left // 60)}:{int(left % 60):02d}")

    def _status(self, step: Step, gap: str = "  ") -> str:
        parts = [f"step {step.step}/{step.steps}", f"density {step.density:.3f}", f"loss {step.loss:.3f}"]
        if not step.steps:
            # Nothing was trained, so nothing had a loss.
            parts = parts[1:2]
        return gap.join([*parts, self.metrics] if self.metrics else parts)


class SweepDisplay:
    """How a sweep goes on: a live table where stderr is a terminal, a line for each beginning and end where not."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.live: Live | None = None

    def __enter__(self) -> SweepDisplay:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True, highlight=False), refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def note(self, text: str) -> None:
        """Something worth knowing, above the table."""
        if self.live is not None:
            self.live.console.print(text, markup=False, highlight=False)
        elif not self.quiet:
            console.talk(text)

    def changed(self, run: SweepRun) -> None:
        """A run has begun or ended."""
        if self.quiet or self.live is not None:
            return
        said = {"running": "started", "failed": f"failed: {run.error}"}.get(run.state, run.state)
        if run.state == "finished" and run.seconds is not None:
            metrics = "  ".join(f"{name} {value:.4f}" for name, value in run.metrics.items())
            said = f"finished in {run.seconds:.0f} s  {metrics}"
        console.talk(f"{run.job.id}  {said}")

    def tick(self, runs: list[SweepRun]) -> None:
        """Several times a second."""
        if self.live is not None:
            from smpcli.sweeping.progress_table import render

            self.live.update(render(runs, most=max(4, self.live.console.height - 6)))
