"""Wanda: pruning by weights and activations, in one shot."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pruners.base import PrunerSettings
from pruners.masks.layer import LayerStatistics, MaskedLayer
from pruners.masks.selection import top_k_of_rows
from pruners.one_shot import OneShotPruner


class Wanda(OneShotPruner):
    """Wanda, in one shot: the largest |W| times input norm of each output's weights stay, and nothing is trained.

    S_ij = |W_ij| * ||x_j||, ranked within row i; ||x_j|| over the tokens of some hundred training examples. They go
    once through the dense model, where the paper's release goes through block after block, pruned ones before it.
    """

    name = "wanda"
    title = "Wanda"
    paper = "https://arxiv.org/abs/2306.11695"

    def __init__(self, settings: PrunerSettings | None = None) -> None:
        super().__init__(settings)
        #: ||x_j|| by layer, (in,).
        self.norms: dict[str, Tensor] = {}

    @property
    def needs_statistics(self) -> bool:
        return True

    def start(self, layer: MaskedLayer, statistics: LayerStatistics | None) -> None:
        if statistics is None:
            raise ValueError(f"wanda needs input statistics of {layer.name}")
        self.norms[layer.name] = statistics.input_norm

    def score(self, layer: MaskedLayer) -> Tensor:
        return layer.weight.detach().abs() * self.norms[layer.name]

    def select(self, layer: MaskedLayer, kept: Any) -> Tensor:
        return layer.mask if self.stands else top_k_of_rows(self.score(layer), kept)
