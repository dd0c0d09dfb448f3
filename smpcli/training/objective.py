"""What training minimises, beside the penalty that a method may add."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

#: (inputs of the model, its logits in float32, labels) -> the loss of a batch, a scalar.
Objective = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]


def task_objective(kind: str) -> Objective:
    """The plain loss of a task of that kind."""
    return _squared_error if kind == "regression" else _cross_entropy


def _cross_entropy(inputs: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """logits (batch, labels), labels (batch,) class ids."""
    return cross_entropy(logits, labels)


def _squared_error(inputs: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """logits (batch, 1), labels (batch,) numbers."""
    return mse_loss(logits[:, 0], labels)
