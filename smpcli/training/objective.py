"""What training minimises, beside the penalty that a method may add."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from smpcli.kinds import KINDS

#: (inputs of the model, its logits in float32, labels) -> the loss of a batch, a scalar.
Objective = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]


def task_objective(kind: str) -> Objective:
    """The plain loss of a task of that kind."""
    return KINDS[kind].loss
