"""Texts, or pairs of them, that each belong to one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy

from smpcli.encoding.batches import Encoded, LogitParts
from smpcli.kinds.kind import SETUP_EXAMPLES, Divergence, Inputs, Kind, Predictions, in_order

OF_A_CLASS = 64  # examples that a rare class's prototype is made of


class Classification(Kind):
    """logits (batch, labels), labels (batch,) class ids."""

    def loss(self, inputs: Inputs, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels)

    def distilled(self, inputs: Inputs, logits: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
        return divergence(logits, teacher)

    def uncarried(self, carried: Tensor) -> tuple[Tensor, Tensor]:
        labels, teacher = super().uncarried(carried)
        return labels.long(), teacher

    def setup_examples(self, labels: Tensor, order: np.ndarray) -> np.ndarray:
        """A rare class must be among them, as it needs a prototype."""
        classes = labels.numpy()[order]
        rare = np.concatenate([np.flatnonzero(classes == label)[:OF_A_CLASS] for label in np.unique(classes)])
        return np.concatenate([order[:SETUP_EXAMPLES], order[rare[rare >= SETUP_EXAMPLES]]])

    def predictions(self, parts: LogitParts, encoded: Encoded) -> Predictions:
        found: list[int] = in_order(parts).argmax(1).tolist()
        return found

    def answers(self, logits: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
        """{"label", "score", "scores"}: the likeliest class, its probability, and those of all classes by name."""
        found = []
        for row in logits.softmax(1).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            found.append({"label": labels[best], "score": row[best], "scores": dict(zip(labels, row, strict=True))})
        return found
