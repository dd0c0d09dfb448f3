"""SNIP's saliency with momentum, as neural-compressor prunes by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pruners.base import setting
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import elementwise
from pruners.sensitivity import SensitivityPruner, SensitivitySettings, mask_every_setting


@dataclass
class SnipMomentumSettings(SensitivitySettings):
    schedule: Literal["cubic", "linear", "exp"] = setting(
        "exp", "shape of the way from dense to the final density; exp: neural-compressor's"
    )
    mask_every: int = mask_every_setting(3)
    momentum: float = setting(0.9, "how much of the score stays from one step to the next", 0, 0.9999)


class SnipMomentum(SensitivityPruner):
    """SNIP with momentum: weights are fine-tuned, the highest running sums of |W * gradient| stay.

    score = momentum * score + |W * dL/dW| in every step, from 0. The saliency is SNIP's, the running sum and the
    schedule are those of Intel's neural-compressor (`snip_momentum`), without its limit on a matrix's sparsity.
    """

    name = "snip-momentum"
    title = "SNIP momentum"
    paper = "https://arxiv.org/abs/1810.02340"
    Settings = SnipMomentumSettings
    settings: SnipMomentumSettings

    def running(self, layer: MaskedLayer) -> dict[str, Tensor]:
        return {"score": torch.zeros_like(layer.weight)}

    @elementwise
    def observe(self, layer: MaskedLayer, gradient: Tensor, step: int) -> None:
        layer.running["score"].mul_(self.settings.momentum).add_(self.sensitivity(layer, gradient))

    @elementwise
    def score(self, layer: MaskedLayer) -> Tensor:
        return layer.running["score"]
