"""Pruning in one shot: masks are final before the first step, weights stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pruners.base import Counts, PrunerSettings, setting
from pruners.masks.layer import MaskedLayer
from pruners.masks.stacked_allocation import global_counts
from pruners.standing import StandingPruner


@dataclass
class OneShotSettings(PrunerSettings):
    """Schedule and rates matter only with head=classifier, whose head is all that is ever trained."""

    weights_lr: float = setting(1e-3, "peak learning rate of the head, with head=classifier", 0)


class OneShotPruner(StandingPruner):
    """A method that trains nothing: its runs have no steps, but for those that train a head (head=classifier)."""

    Settings: ClassVar[type[PrunerSettings]] = OneShotSettings

    def density(self, progress: float, final: float) -> float:
        return final


@dataclass
class MagnitudeOneShotSettings(OneShotSettings):
    allocation: Literal["L", "G"] = setting("L", "densities: L the same everywhere, G one global top-k of |W|")


class MagnitudeOneShot(OneShotPruner):
    """Magnitude pruning in one shot: the largest weights of each matrix stay, and nothing is trained."""

    name = "magnitude-one-shot"
    title = "Magnitude, one-shot"
    paper = "https://arxiv.org/abs/1506.02626"
    Settings = MagnitudeOneShotSettings
    settings: MagnitudeOneShotSettings

    def share(self, layers: Sequence[MaskedLayer], kept: int) -> Counts:
        return global_counts(self, layers, kept) if self.settings.allocation == "G" else super().share(layers, kept)
