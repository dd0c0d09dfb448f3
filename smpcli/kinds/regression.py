"""Texts, or pairs of them, that each have a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import mse_loss

from smpcli.encoding.batches import Encoded, LogitParts
from smpcli.kinds.kind import Divergence, Inputs, Kind, Predictions, in_order


class Regression(Kind):
    """logits (batch, 1), labels (batch,) numbers."""

    def loss(self, inputs: Inputs, logits: Tensor, labels: Tensor) -> Tensor:
        return mse_loss(logits[:, 0], labels)

    def distilled(self, inputs: Inputs, logits: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
        """The squared error to the teacher's value."""
        return mse_loss(logits, teacher)

    def predictions(self, parts: LogitParts, encoded: Encoded) -> Predictions:
        found: list[float] = in_order(parts)[:, 0].tolist()
        return found

    def answers(self, logits: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
        """{"value"}: the number."""
        return [{"value": value} for value in logits[:, 0].tolist()]
