"""SMP, Static Model Pruning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pruners.base import Counts, setting
from pruners.masks.allocation import proportional_counts
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import pieces, scores_of, stacks_of
from pruners.masks.stacked_allocation import KindShares, global_counts
from pruners.scored import ScoredPruner, ScoredSettings, structure_setting


@dataclass
class SMPSettings(ScoredSettings):
    """The defaults go beyond the paper; recipe smp-paper is the paper's form."""

    init: Literal["zero", "magnitude", "activation"] = setting(
        "activation", "first scores: zero (the paper), |W|, or |W| times the input's norm"
    )
    factored: bool = setting(True, "learn a score for each row and column beside each weight's own")
    penalty: float | Literal["auto"] = setting(
        "auto",
        "final weight lambda of the penalty on sigmoid(S); 0: none; auto: none up to a sparsity of 0.2, 400 from 0.5 "
        "on, between them in proportion",
        0,
    )
    scores_lr: float = setting(4e-2, "peak learning rate of the scores", 0)
    # Gradients of scores change with every mask: a short memory follows them, and allows twice the rate.
    beta1: float = setting(0.8, "AdamW's decay of the mean of gradients", 0, 0.9999)
    beta2: float = setting(0.9, "AdamW's decay of the mean of squared gradients", 0, 0.999999)
    structure: float | Literal["auto"] = structure_setting("auto")
    allocation: Literal["S", "L", "G"] = setting(
        "S", "densities: S by mean score within a matrix type, L the same everywhere, G one global top-k"
    )
    temperature: float = setting(1.0, "p in SMP-S's r = mean sigmoid(S / p)", 1e-6)


class SMP(ScoredPruner):
    """Static Model Pruning: weights stay frozen, only which of them to keep is learned."""

    name = "smp"
    title = "SMP"
    paper = "https://arxiv.org/abs/2210.06210"
    Settings = SMPSettings
    settings: SMPSettings
    _shares: KindShares | None = None

    def allocate(self, layers: Sequence[MaskedLayer], kept: int) -> Counts:
        if self.settings.allocation == "L":
            return super().allocate(layers, kept)
        if self.settings.allocation == "G":
            return global_counts(self, layers, kept)
        # eq. 4: r_l = mean sigmoid(S_l / p) says how much of its kind's budget layer l gets.
        p = self.settings.temperature
        stacks = stacks_of(layers)
        scores = (scores_of(self, piece) for piece in pieces(layers))
        shares = ((score if p == 1 else score / p).sigmoid() for score in scores)
        if stacks is None:
            importance = torch.stack([share.mean() for share in shares])
        else:
            importance = torch.cat([share.mean(1) for share in shares])
            if self._shares is None:
                self._shares = KindShares([layer.kind for layer in layers], [layer.size for layer in layers], stacks)
            if self._shares.uniform:
                return self._shares.counts(importance, kept)
            importance = importance.index_select(0, stacks.order)
        return proportional_counts(
            importance.tolist(), [layer.kind for layer in layers], [layer.size for layer in layers], kept
        )
