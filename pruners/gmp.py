"""Gradual magnitude pruning as tuned for BERT (GMP*)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pruners.base import Counts, PrunerSettings, setting
from pruners.masks.layer import MaskedLayer
from pruners.masks.stacked_allocation import global_counts
from pruners.schedule import DENSITIES, stepped
from pruners.standing import StandingPruner


@dataclass
class GMPSettings(PrunerSettings):
    """The paper's ten epochs as fractions of the run: two dense, six of pruning, two at the final masks.

    weights_lr is magnitude's here, the number of prunings a guess.
    """

    ramp_start: float = setting(0.2, "fraction of the run that stays dense; then comes the first pruning", 0, 1)
    ramp_end: float = setting(0.8, "fraction of the run at which the final density is reached", 0, 1)
    initial_sparsity: float = setting(0.5, "sparsity of the first pruning, at most the final one", 0, 1)
    prunings: int = setting(
        100, "steps in which the density falls from ramp_start to ramp_end; masks stand between; 0: every step", 0
    )
    rewinds: int = setting(4, "times that the learning rate falls to 0 and begins anew, evenly over the run", 0)
    weights_lr: float = setting(5e-4, "peak learning rate of the weights", 0)
    allocation: Literal["L", "G"] = setting("G", "densities: L the same everywhere, G one global top-k of |W|")


class GMP(StandingPruner):
    """GMP*, gradual magnitude pruning: a first step to 50 %, masks that stand for a while, a rate with rewinds.

    v(t) = 1 before ramp_start, and from there v_f + (v_0 - v_f)(1 - x)^3 with v_0 = 1 - initial_sparsity and x the
    part of the ramp that is done, rounded down to whole prunings. Between them masks stand, and a weight that is
    pruned can come back only at the next. The paper distils besides: --set teacher=RUN, or recipe gmp-paper.
    """

    name = "gmp"
    title = "GMP"
    paper = "https://arxiv.org/abs/2210.06384"
    trains_weights = True
    Settings = GMPSettings
    settings: GMPSettings

    def density(self, progress: float, final: float) -> float:
        settings = self.settings
        if progress < settings.ramp_start:
            return 1.0
        done = stepped(progress, settings.ramp_start, settings.ramp_end, settings.prunings)
        first = max(final, 1 - settings.initial_sparsity)
        # The schedule from 1 to v_f / v_0, in units of v_0.
        return first * DENSITIES[settings.schedule](done, final / first, 0.0, 1.0) if done < 1 else final

    def share(self, layers: Sequence[MaskedLayer], kept: int) -> Counts:
        return global_counts(self, layers, kept) if self.settings.allocation == "G" else super().share(layers, kept)
