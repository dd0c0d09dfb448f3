"""PLATON: importance times its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pruners.base import setting
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import elementwise
from pruners.sensitivity import SensitivityPruner, SensitivitySettings


@dataclass
class PlatonSettings(SensitivitySettings):
    ramp_start: float = setting(0.05, "fraction of the run that stays dense", 0, 1)
    ramp_end: float = setting(0.7, "fraction of the run at which the final density is reached", 1e-6, 1)
    importance_decay: float = setting(0.85, "beta1: how much of the mean importance stays at each update", 0, 0.9999)
    uncertainty_decay: float = setting(0.95, "beta2: the same of the mean uncertainty", 0, 0.9999)


class Platon(SensitivityPruner):
    """PLATON: weights are fine-tuned, those of highest importance times uncertainty stay.

    I = |W * dL/dW|, over `mask_every` steps their mean; Ibar = beta1 Ibar + (1 - beta1) I;
    Ubar = beta2 Ubar + (1 - beta2) |I - Ibar|, all from 0; score = Ibar * Ubar. As released, both are updated when
    masks are chosen.
    """

    name = "platon"
    title = "PLATON"
    paper = "https://arxiv.org/abs/2206.12562"
    Settings = PlatonSettings
    settings: PlatonSettings

    def running(self, layer: MaskedLayer) -> dict[str, Tensor]:
        names = ["importance", "uncertainty", *(["window"] if self.settings.mask_every > 1 else [])]
        return {name: torch.zeros_like(layer.weight) for name in names}

    @elementwise
    def observe(self, layer: MaskedLayer, gradient: Tensor, step: int) -> None:
        settings, running = self.settings, layer.running
        found = self.sensitivity(layer, gradient)
        if settings.mask_every > 1:
            found = running["window"].add_(found, alpha=1 / settings.mask_every)
            if (step + 1) % settings.mask_every:
                return
        importance = running["importance"].lerp_(found, 1 - settings.importance_decay)
        running["uncertainty"].lerp_((found - importance).abs_(), 1 - settings.uncertainty_decay)
        if settings.mask_every > 1:
            running["window"].zero_()

    @elementwise
    def score(self, layer: MaskedLayer) -> Tensor:
        return layer.running["importance"] * layer.running["uncertainty"]
