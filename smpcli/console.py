"""The only module that prints. stdout is data, stderr is talk."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from smpcli.sweeping.sweep import Run
    from smpcli.training.loop import Step

# Where the output is no terminal, a run prints about this many lines.
PLAIN_LINES = 20
# Characters of an error's line.
MESSAGE = 300


def quieten_libraries() -> None:
    """Silence the libraries' own bars and advice; set before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # With telemetry, the hub's client asks the network about its surroundings even for what is in its cache.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _speaks() -> bool:
    """Of the processes that `accelerate launch` starts, the first speaks for all."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def data(text: str) -> None:
    """A line of result, on stdout."""
    if _speaks():
        print(text, flush=True)


def data_json(value: Any) -> None:
    """A result as JSON, on stdout."""
    data(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def data_line(value: Any) -> None:
    """A result as one line of JSON, on stdout."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Some readers end a line at these, too.
    for end in "\x85\u2028\u2029":
        text = text.replace(end, f"\\u{ord(end):04x}")
    data(text)


def show(renderable: Any) -> None:
    """A rich table or text on stdout, as wide as the terminal (100 columns where there is none)."""
    from rich.console import Console

    if not _speaks():
        return
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 100
    Console(width=width, highlight=False).print(renderable)


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A plain table; cells are text, not markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def talk(text: str) -> None:
    """A line for the person who waits, on stderr."""
    if _speaks():
        print(text, file=sys.stderr, flush=True)


def error(text: str) -> None:
    """The one line of an error, on stderr. Of a long one the middle goes: the way out is at its end."""
    line = " ".join(text.split())
    talk(f"error: {line if len(line) <= MESSAGE else f'{line[:180]} … {line[3 + 180 - MESSAGE :]}'}")


class Progress:
    """How a run goes on: a live bar where stderr is a terminal, now and then a line where it is not."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet or not _speaks()
        self.metrics = ""
        self.started = 0.0
        self.bar: RichProgress | None = None
        self.bar_task: TaskID | None = None

    def __enter__(self) -> Progress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            console = Console(stderr=True)
            self.bar = RichProgress(
                TextColumn("{task.description}"),
                # What the figures leave: at 80 columns that is not much.
                BarColumn(bar_width=max(3, min(30, console.width - 78))),
                TextColumn("{task.fields[status]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True),
                console=console,
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
            talk(f"{name} …")

    def note(self, text: str) -> None:
        """Something worth knowing, above the bar."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            talk(text)

    def step(self, step: Step) -> None:
        """After each training step, and after the last evaluation."""
        if step.metrics:
            shown = list(step.metrics.items())
            # The bar has room for the task's first metric.
            self.metrics = "  ".join(f"{name} {value:.4f}" for name, value in (shown[:1] if self.bar else shown))
        if self.bar is not None and self.bar_task is not None:
            self.bar.update(self.bar_task, completed=step.step, total=step.steps, status=self._status(step, " "))
        elif not self.quiet and (
            step.metrics or (step.step < step.steps and step.step % max(1, step.steps // PLAIN_LINES) == 0)
        ):
            left = (time.monotonic() - self.started) / step.step * (step.steps - step.step)
            talk(f"{self._status(step)}  ETA {int(left // 60)}:{int(left % 60):02d}")

    def _status(self, step: Step, gap: str = "  ") -> str:
        parts = [f"step {step.step}/{step.steps}", f"density {step.density:.3f}", f"loss {step.loss:.3f}"]
        return gap.join([*parts, self.metrics] if self.metrics else parts)


class SweepProgress:
    """How a sweep goes on: a live table where stderr is a terminal, a line for each beginning and end where not."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.live: Live | None = None

    def __enter__(self) -> SweepProgress:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True, highlight=False), refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def changed(self, run: Run) -> None:
        """A run has begun or ended."""
        if self.quiet or self.live is not None:
            return
        said = {"running": "started", "failed": f"failed: {run.error}"}.get(run.state, run.state)
        if run.state == "finished" and run.seconds is not None:
            metrics = "  ".join(f"{name} {value:.4f}" for name, value in run.metrics.items())
            said = f"finished in {run.seconds:.0f} s  {metrics}"
        talk(f"{run.job.id}  {said}")

    def tick(self, runs: list[Run]) -> None:
        """Several times a second."""
        if self.live is not None:
            from smpcli.sweeping.table import render

            self.live.update(render(runs, most=max(4, self.live.console.height - 6)))
