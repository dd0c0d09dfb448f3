"""Magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass

from pruners.base import Pruner, PrunerSettings, setting


@dataclass
class MagnitudeSettings(PrunerSettings):
    weights_lr: float = setting(5e-4, "peak learning rate of the weights", 0)


class Magnitude(Pruner):
    """Magnitude pruning: weights are fine-tuned, the largest of each matrix stay."""

    name = "magnitude"
    title = "Magnitude"
    paper = "https://arxiv.org/abs/1710.01878"
    trains_weights = True
    Settings = MagnitudeSettings
