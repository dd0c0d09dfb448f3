"""A sweep as a table: live while it goes on, and the last word at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from smpcli.console import table
from smpcli.sweeping.sweep import SweepRun

COLUMNS = ("run", "state", "step", "density", "metric", "time")
_STYLES = {"running": "cyan", "finished": "green", "failed": "red", "waiting": "dim"}


def render(runs: Sequence[SweepRun], most: int | None = None) -> Any:
    """A table of all runs; with `most`, of no more: running and failed ones first, then the latest and the next."""
    shown = _choose(runs, most) if most is not None and len(runs) > most else list(runs)
    made = table(None, COLUMNS, [])
    for run in shown:
        made.add_row(*map(Text, _cells(run)), style=_STYLES[run.state])
    made.caption = counts(runs) + (f"; {len(shown)} shown" if len(shown) < len(runs) else "")
    made.caption_justify = "left"
    return made


def counts(runs: Sequence[SweepRun]) -> str:
    """ "3 finished (1 before), 2 running, 1 failed"; states without a run are left out."""
    found = Counter(run.state for run in runs)
    before = sum(run.before for run in runs)
    parts = [
        f"{found[state]} {state}" + (f" ({before} before)" if state == "finished" and before else "")
        for state in ("finished", "running", "waiting", "failed")
        if found[state]
    ]
    return ", ".join(parts)


def _choose(runs: Sequence[SweepRun], most: int) -> list[SweepRun]:
    done = sum(run.state == "finished" for run in runs)
    rank = {"running": 0, "failed": 1}
    # Around the border between what is done and what is to come.
    order = sorted(range(len(runs)), key=lambda i: (rank.get(runs[i].state, 2), abs(i - done)))
    return [runs[index] for index in sorted(order[: max(1, most)])]


def _cells(run: SweepRun) -> list[str]:
    name, value = next(iter(run.metrics.items()), ("", 0.0))
    steps = f"{run.step:,}/{run.steps:,}" if run.steps is not None else f"{run.step:,}"
    return [
        run.job.id,
        run.state + (f" ({run.exit_code})" if run.state == "failed" and run.exit_code is not None else ""),
        "" if run.state == "waiting" else steps,
        "" if run.density is None else f"{run.density:.3f}",
        f"{name} {value:.4f}" if name else "",
        "" if run.seconds is None else clock(run.seconds),
    ]


def clock(seconds: float) -> str:
    """ "9:25", or "1:02:03" from an hour up.

    >>> clock(565.2), clock(3723)
    ('9:25', '1:02:03')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
