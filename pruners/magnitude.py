"""Magnitude pruning."""

from __future__ import annotations

from pruners.base import Pruner


class Magnitude(Pruner):
    """Magnitude pruning: weights are fine-tuned, the largest of each matrix stay."""

    name = "magnitude"
    title = "Magnitude"
    paper = "https://arxiv.org/abs/1710.01878"
    trains_weights = True
