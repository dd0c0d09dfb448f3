"""Whether a training still computes with finite numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from smpcli.training.progress import TrainingDiverged


class Health:
    """The loss of the last step, and a refusal to go on where it, or the gradient's norm, isn't finite."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.loss = math.nan

    def note(self, step: int, loss: Tensor, norm: Tensor | None) -> None:
        """A step's loss and its gradient's norm, scalars. Raises TrainingDiverged."""
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            raise TrainingDiverged(step, f"the loss is {self.loss}")
        if norm is not None and not math.isfinite(norm):
            raise TrainingDiverged(step, f"the gradient's norm is {float(norm)}")


def refuse_infinite(tensors: Sequence[Tensor], step: int) -> None:
    """Raise TrainingDiverged where a trained number is NaN or infinite."""
    for tensor in tensors:
        # The sum of finite numbers may overflow, so it only acquits.
        if not math.isfinite(tensor.detach().sum()) and not bool(tensor.detach().isfinite().all()):
            raise TrainingDiverged(step, "a trained weight or score is NaN or infinite")
