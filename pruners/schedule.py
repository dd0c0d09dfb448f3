"""Density and penalty as functions of progress t/T in [0, 1], so that a schedule fits a run of any length.

Another density schedule is a function here, its entry in DENSITIES, and a name in the setting `schedule` of base.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable


def _ramp(progress: float, start: float, end: float) -> float:
    """0 up to `start`, 1 from `end` on, linear between."""
    if progress >= end:
        return 1.0
    if progress <= start:
        return 0.0
    return (progress - start) / (end - start)


def cubic_decay(progress: float, final: float, start: float = 0.0, end: float = 1.0) -> float:
    """v(t) = v_f + (1 - v_f)(1 - t/N)^3, then v_f (SMP eq. 5; Zhu & Gupta 2017, arXiv 1710.01878)."""
    return final + (1 - final) * (1 - _ramp(progress, start, end)) ** 3


def linear_decay(progress: float, final: float, start: float = 0.0, end: float = 1.0) -> float:
    """v(t) = v_f + (1 - v_f)(1 - t/N), then v_f (what SMP's authors use for RoBERTa)."""
    return final + (1 - final) * (1 - _ramp(progress, start, end))


def exponential_decay(progress: float, final: float, start: float = 0.0, end: float = 1.0) -> float:
    """v(t) = v_f^(t/N), then v_f: each step removes the same share of what is left (neural-compressor's "exp")."""
    return float(final ** _ramp(progress, start, end))


def cubic_rise(progress: float, final: float, start: float = 0.0, end: float = 1.0) -> float:
    """lambda(t) = lambda_f (1 - (1 - x)^3), the penalty's weight; x rises from 0 at `start` to 1 at `end`.

    SMP as released goes from 0 to T, soft movement's release from 0.1 T to 0.8 T. `end` 0: lambda_f from the start.
    """
    return final * (1 - (1 - _ramp(progress, start, end)) ** 3)


def stepped(progress: float, start: float, end: float, parts: int) -> float:
    """How much of the ramp from `start` to `end` is done, in [0, 1], rounded down to `parts` steps (0: any value)."""
    done = _ramp(progress, start, end)
    return math.floor(done * parts) / parts if parts else done


#: (progress, final density, start, end of the ramp) -> density, by the name that the setting `schedule` takes.
DENSITIES: dict[str, Callable[[float, float, float, float], float]] = {
    "cubic": cubic_decay,
    "linear": linear_decay,
    "exp": exponential_decay,
}
