"""Soft movement pruning, steered so that --sparsity means what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pruners.base import Counts, setting
from pruners.masks.layer import MaskedLayer
from pruners.masks.stacked_allocation import global_counts
from pruners.movement import Movement, MovementSettings


@dataclass
class SoftMovementSettings(MovementSettings):
    penalty: float = setting(400.0, "final weight lambda of the penalty on sigmoid(S); 0: none", 0)


class SoftMovement(Movement):
    """Soft movement pruning: one global threshold on the scores, steered to the sparsity asked for.

    The paper keeps sigmoid(S) > tau with tau fixed, so lambda decides the density only indirectly. Here tau follows
    the density schedule: each step it is the value that exactly the wanted number of weights lie above.
    """

    name = "soft-movement"
    title = "Soft movement"
    Settings = SoftMovementSettings
    settings: SoftMovementSettings

    def allocate(self, layers: Sequence[MaskedLayer], kept: int) -> Counts:
        return global_counts(self, layers, kept)

    def report(self, layers: Sequence[MaskedLayer]) -> dict[str, float]:
        """tau: the lowest sigmoid(S) that is kept; lambda: the penalty's final weight.

        With `structure=1` tau is the threshold: nothing that is pruned lies above it.
        """
        kept = [self.score(layer)[layer.mask] for layer in layers]
        lowest = min((float(scores.min()) for scores in kept if scores.numel()), default=math.inf)
        return {"tau": float(torch.tensor(lowest, dtype=torch.float64).sigmoid()), "lambda": self.penalty}
