"""How far a run is, step by step: what is shown, what is saved, and where it goes wrong."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from smpcli.errors import UserError

FULL = 1.0


class TrainingDiverged(UserError):
    """Loss, gradient or scores are no longer finite. `step` counts from 0; `where` says more of the place."""

    def __init__(self, step: int, reason: str, where: str = "") -> None:
        super().__init__(
            f"training diverged at step {step + 1}: {reason}{where}",
            "lower a learning rate (--set weights_lr or scores_lr)",
        )
        self.step = step
        self.reason = reason


@dataclass(frozen=True)
class Step:
    """What is worth showing after a step (or an evaluation, then `metrics` is filled)."""

    step: int
    steps: int
    density: float
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Position:
    """How far a run is: everything that the loop itself keeps from step to step.

    evaluated: False where `step` steps are done and the evaluation due after them is not.
    """

    step: int = 0
    density: float = FULL
    loss: float = math.nan
    seconds: float = 0.0
    history: tuple[tuple[int, dict[str, float]], ...] = ()
    evaluated: bool = True


class Watch:
    """What saves a run between two steps and knows where it begins. This one saves nothing."""

    start = Position()

    def restore_random(self) -> None:
        """Put all random states back to what they were at `start`."""

    def after_step(self, position: Position) -> None:
        """Called when a step, with the evaluation due after it, is done."""

    def evaluating(self, position: Position) -> AbstractContextManager[None]:
        """Around an evaluation: the one moment within a step at which a run can be left and gone on with."""
        return nullcontext()
