"""Whether a training still computes with finite numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from smpcli.training.progress import TrainingDiverged


class Health:
    """The loss of the last step that was read, and a refusal to go on where a number is not finite.

    A CPU is read after every step. An accelerator's numbers stay there until `read`, which waits for it once and
    names the first step that went wrong.
    """

    def __init__(self, device: torch.device) -> None:
        self.waits = device.type == "cpu"
        self.loss = math.nan
        self._unread: list[tuple[int, Tensor]] = []

    def note(self, step: int, loss: Tensor, norm: Tensor | None, ranked: Tensor | None = None) -> None:
        """A step's loss, its gradient's norm, and the sum of what masks were chosen by, scalars.

        Raises TrainingDiverged, for what is read at once.
        """
        norm = torch.zeros_like(loss) if norm is None else norm
        ranked = torch.zeros_like(loss) if ranked is None else ranked
        self._unread.append((step, torch.stack([loss.float(), norm.float(), ranked.float()])))
        if self.waits:
            self.read()

    def read(self) -> None:
        """Wait for the numbers noted since the last call. Raises TrainingDiverged of the first step that did."""
        noted, self._unread = self._unread, []
        if not noted:
            return
        values = torch.stack([numbers for _, numbers in noted]).tolist()
        for (step, _), (loss, norm, ranked) in zip(noted, values, strict=True):
            self.loss = loss
            if math.isnan(ranked):
                raise TrainingDiverged(step, "a score is NaN")
            if not math.isfinite(loss):
                raise TrainingDiverged(step, f"the loss is {loss}")
            if not math.isfinite(norm):
                raise TrainingDiverged(step, f"the gradient's norm is {norm}")


def refuse_infinite(tensors: Sequence[Tensor], step: int) -> None:
    """Raise TrainingDiverged where a trained number is NaN or infinite."""
    for tensor in tensors:
        # The sum of finite numbers may overflow, so it only acquits.
        if not math.isfinite(tensor.detach().sum()) and not bool(tensor.detach().isfinite().all()):
            raise TrainingDiverged(step, "a trained weight or score is NaN or infinite")
