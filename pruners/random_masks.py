"""Random pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruners.base import Pruner, PrunerSettings, setting
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import Stack, elementwise, pieces


@dataclass
class RandomSettings(PrunerSettings):
    weights_lr: float = setting(5e-4, "peak learning rate of the weights", 0)


class Random(Pruner):
    """Random pruning: weights are fine-tuned, random ones of each matrix stay: the floor.

    Scores are uniform, drawn once a run from its seed, whatever else it draws: the same after a resume, on every
    device and in every process. So masks are nested: what is pruned stays so.
    """

    name = "random"
    title = "Random"
    paper = "https://arxiv.org/abs/2202.02643"
    trains_weights = True
    Settings = RandomSettings

    def __init__(self, settings: PrunerSettings | None = None) -> None:
        super().__init__(settings)
        # The run's, however much was drawn with it; later each process has one of its own.
        self.seed = torch.initial_seed() % 2**63

    def begin(self, layers: Sequence[MaskedLayer], final_density: float) -> None:
        draw = np.random.default_rng([self.seed, 2])
        drawn = {
            layer.name: torch.from_numpy(draw.random(layer.weight.shape, np.float32)).to(layer.weight)
            for layer in layers
        }
        self.scores = {
            piece.name: torch.stack([drawn[layer.name].reshape(-1) for layer in piece.layers])
            if isinstance(piece, Stack)
            else drawn[piece.name]
            for piece in pieces(layers)
        }

    @elementwise
    def score(self, layer: MaskedLayer) -> Tensor:
        return self.scores[layer.name]
