"""What training minimises, beside the penalty that a method may add."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

#: (inputs of the model, its logits in float32, labels) -> the loss of a batch, a scalar.
Objective = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]


def task_objective(kind: str) -> Objective:
    """The plain loss of a task of that kind: classification, regression or span."""
    return {"classification": _cross_entropy, "regression": _squared_error, "span": _start_and_end}[kind]


def _cross_entropy(inputs: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """logits (batch, labels), labels (batch,) class ids."""
    return cross_entropy(logits, labels)


def _squared_error(inputs: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """logits (batch, 1), labels (batch,) numbers."""
    return mse_loss(logits[:, 0], labels)


def _start_and_end(inputs: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
    """logits (batch, 2, length): of start and end at each token; labels (batch, 2): their positions.

    The mean of the two cross-entropies (BERT, arXiv 1810.04805, 4.2), each over the tokens that are there.
    """
    padding = inputs["attention_mask"][:, None, :] == 0
    logits = logits.masked_fill(padding, torch.finfo(logits.dtype).min)
    return cross_entropy(logits.flatten(0, 1), labels.flatten())
