"""Dense fine-tuning."""

from __future__ import annotations

from pruners.base import Pruner


class Dense(Pruner):
    """Fine-tuning without pruning: the baseline."""

    name = "dense"
    title = "Dense"
    paper = "https://arxiv.org/abs/1810.04805"
    trains_weights = True
    prunes = False
