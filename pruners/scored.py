"""What methods that learn scores share: where scores start, and the penalty on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pruners.base import Counts, Pruner, PrunerSettings, setting
from pruners.errors import PrunerError, SettingError
from pruners.masks.allocation import kept_weights
from pruners.masks.layer import LayerStatistics, MaskedLayer
from pruners.masks.stack import elementwise, pieces, scores_of, stacks_of
from pruners.masks.stacked_channels import StackedChannels, blocks_alike
from pruners.masks.structure import Channels, has_channels
from pruners.schedule import cubic_rise


def structure_setting(default: float | Literal["auto"]) -> Any:
    """The setting `structure`, with a method's own default."""
    return setting(
        default,
        "largest fraction of neurons and heads that keep weights, for small fast exports; 1: all may (the papers); "
        "auto: the root of the density, in models whose blocks are known",
        0.01,
        1,
    )


#: lambda at half of the weights and less, where it is `auto`.
MOST_PENALTY = 400.0


@dataclass
class ScoredSettings(PrunerSettings):
    """Settings of the methods that learn scores."""

    init: Literal["zero", "magnitude", "activation"] = setting(
        "zero", "first scores: zero (the papers), |W|, or |W| times the input's norm"
    )
    init_scale: float = setting(0.5, "spread c of the first scores: S = c (importance / mean - 1)", 0)
    factored: bool = setting(False, "learn a score for each row and column beside each weight's own")
    scores_lr: float = setting(2e-2, "peak learning rate of the scores", 0)
    penalty: float | Literal["auto"] = setting(0.0, "final weight lambda of the penalty on sigmoid(S); 0: none", 0)
    penalty_start: float = setting(0.0, "fraction of the run that the penalty's weight stays 0", 0, 1)
    penalty_end: float = setting(
        1.0, "fraction of the run at which the penalty has its final weight; 0: from the start", 0, 1
    )
    structure: float | Literal["auto"] = structure_setting(1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.penalty_start > self.penalty_end:
            raise SettingError(
                "penalty_start", f"must be at most penalty_end ({self.penalty_end}), not {self.penalty_start}"
            )


class ScoredPruner(Pruner):
    """A method that learns scores."""

    trains_scores = True
    Settings: ClassVar[type[PrunerSettings]] = ScoredSettings
    settings: ScoredSettings

    def __init__(self, settings: PrunerSettings | None = None) -> None:
        super().__init__(settings)
        self.channels: Channels | StackedChannels | None = None
        self.final_density = 1.0

    @property
    def limit(self) -> float:
        """The largest fraction of channels that keep weights in the end."""
        structure = self.settings.structure
        # Of n^2 weights then about n stay in each of n channels: as dense within as channels are among all.
        return math.sqrt(self.final_density) if structure == "auto" else structure

    @property
    def own_selection(self) -> bool:
        return type(self).select is not ScoredPruner.select

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

    def begin(self, layers: Sequence[MaskedLayer], final_density: float) -> None:
        self.final_density = final_density
        if final_density > self.limit:
            raise PrunerError(
                f"structure={self.limit:g} has no room for {final_density:.0%} of the weights",
                f"give at least structure={final_density:g}, or a higher sparsity",
            )

    def stacks(self, layers: Sequence[MaskedLayer]) -> bool:
        structured = self.settings.structure != 1 and has_channels(layers)
        return not structured or blocks_alike(layers)

    @elementwise
    def restrict(self, layers: Sequence[MaskedLayer], counts: Any, density: float) -> Counts:
        """With `structure`, the fraction of channels falls from 1 to its limit as the density falls to its end."""
        final, limit = self.final_density, self.limit
        found: Counts = counts
        if 1 in (limit, final):
            return found
        if self.channels is None:
            if self.settings.structure == "auto" and not has_channels(layers):
                return found
            stacks = stacks_of(layers)
            self.channels = Channels(layers) if stacks is None else StackedChannels(layers, stacks)
        fraction = limit + (1 - limit) * (density - final) / (1 - final)
        scores = [scores_of(self, piece) for piece in pieces(layers)]
        if isinstance(self.channels, StackedChannels):
            kept = kept_weights(density, sum(layer.size for layer in layers))
            return self.channels.restrict(scores, counts, kept, fraction)
        assert isinstance(counts, list), "as layers aren't stacked"
        return self.channels.restrict(layers, scores, counts, fraction)

    @elementwise
    def select(self, layer: MaskedLayer, kept: Any) -> Tensor:
        if self.channels is None:
            return super().select(layer, kept)
        return self.channels.select(layer, scores_of(self, layer), kept)

    @elementwise
    def part(self, layer: MaskedLayer) -> tuple[Tensor, int] | None:
        """The channels that may keep weights."""
        # Masks or gates of a method's own may reach beyond the channels.
        own = self.own_selection or type(self).gates is not Pruner.gates
        return None if self.channels is None or own else self.channels.part(layer)

    @property
    def penalty(self) -> float:
        """lambda, the penalty's final weight."""
        penalty = self.settings.penalty
        if penalty != "auto":
            return penalty
        # What few weights fall can't be told by pulling at all scores.
        return MOST_PENALTY * min(1.0, max(0.0, (0.8 - self.final_density) / 0.3))

    def penalty_weight(self, progress: float) -> float:
        settings = self.settings
        return cubic_rise(progress, self.penalty, settings.penalty_start, settings.penalty_end)

    @elementwise
    def add_penalty_gradient(self, layer: MaskedLayer, gradient: Tensor, weight: float, layers: int) -> None:
        """R(S) = mean over matrices of mean sigmoid(S), so dR/dS = s (1 - s) / (matrices * numel), s = sigmoid(S)."""
        s = layer.score().sigmoid()
        gradient.add_(s.addcmul_(s, s, value=-1), alpha=weight / (layers * layer.size))
