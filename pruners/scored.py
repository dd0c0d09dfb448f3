"""What methods that learn scores share: where scores start, and the penalty on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruners.base import Pruner, PrunerSettings, setting
from pruners.masking import LayerStatistics, MaskedLayer
from pruners.schedule import cubic_rise


@dataclass
class ScoredSettings(PrunerSettings):
    """Settings of the methods that learn scores."""

    init: Literal["zero", "magnitude", "activation"] = setting(
        "zero", "first scores: zero (the papers), |W|, or |W| times the input's norm"
    )
    init_scale: float = setting(0.5, "spread c of the first scores: S = c (importance / mean - 1)", 0)
    factored: bool = setting(False, "learn a score for each row and column beside each weight's own")
    scores_lr: float = setting(2e-2, "peak learning rate of the scores", 0)
    penalty: float = setting(0.0, "final weight lambda of the penalty on sigmoid(S); 0: none", 0)


class ScoredPruner(Pruner):
    """A method that learns scores."""

    trains_scores = True
    Settings: ClassVar[type[PrunerSettings]] = ScoredSettings
    settings: ScoredSettings

    @property
    def needs_statistics(self) -> bool:
        return self.settings.init == "activation"

    def start(self, layer: MaskedLayer, statistics: LayerStatistics | None) -> Tensor:
        """S = 0, or c (I / mean(I) - 1) with I_ij = |W_ij| (magnitude) or |W_ij| * ||x_j|| (activation).

        The activation form is the importance of Wanda (arXiv 2306.11695), here only where learning begins.
        """
        if self.settings.init == "zero":
            return torch.zeros_like(layer.weight)
        importance = layer.weight.detach().abs()
        if self.settings.init == "activation":
            if statistics is None:
                raise ValueError(f"init=activation needs input statistics of {layer.name}")
            importance *= statistics.input_norm
        mean = importance.mean()
        if not mean:
            return torch.zeros_like(layer.weight)
        return self.settings.init_scale * (importance / mean - 1)

    def penalty_weight(self, progress: float) -> float:
        return cubic_rise(progress, self.settings.penalty)

    def add_penalty_gradient(self, layer: MaskedLayer, gradient: Tensor, weight: float, layers: int) -> None:
        """R(S) = mean over matrices of mean sigmoid(S), so dR/dS = s (1 - s) / (matrices * numel), s = sigmoid(S)."""
        s = layer.score().sigmoid()
        gradient.add_(s.addcmul_(s, s, value=-1), alpha=weight / (layers * s.numel()))
