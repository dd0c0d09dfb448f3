"""oBERT: optimal brain surgeon with a block-diagonal empirical Fisher matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruners.base import setting
from pruners.errors import PrunerError
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import elementwise, highest
from pruners.sensitivity import GradientPruner, GradientSettings, mask_every_setting


@dataclass
class ObertSettings(GradientSettings):
    mask_every: int = mask_every_setting(20)
    block: int = setting(16, "B: weights in a row whose curvature is known together; B numbers are kept a weight", 1)
    gradients: int = setting(
        1024, "m: gradients that the curvature is taken from, of the last steps before a choice", 1
    )
    damp: float = setting(1e-7, "lambda: what is added to the diagonal of the Fisher matrix", 1e-12)
    fisher_gb: float = setting(8.0, "gigabytes that the inverse Fisher matrix may take; more is refused", 0)


class Obert(GradientPruner):
    """oBERT: weights are fine-tuned, the highest second-order saliency stays, and makes up for what is removed.

    F = lambda I + 1/m sum g g^T in blocks of B weights, g = dL/dW, its inverse by Woodbury's recursion. Saliency:
    w_q^2 / (2 [F^-1]_qq); for each weight q that is removed, w -= w_q F^-1 e_q / [F^-1]_qq. The m gradients are those
    of the training steps before masks are chosen, where the paper draws others. What is removed never comes back.
    """

    name = "obert"
    title = "oBERT"
    paper = "https://arxiv.org/abs/2203.07259"
    Settings = ObertSettings
    settings: ObertSettings

    def check(self, layers: Sequence[MaskedLayer]) -> None:
        sizes, block = [layer.size for layer in layers], self.settings.block
        affordable = int(self.settings.fisher_gb * 1e9 / 4 / max(1, sum(sizes)))
        limit = min(block, affordable)
        if limit == block and not any(size % block for size in sizes):
            return
        fits = next((b for b in range(limit, 0, -1) if not any(size % b for size in sizes)), None)
        remedy = f"give block={fits}" if fits else "give more fisher_gb, or choose snip-momentum or platon"
        if limit < block:
            need = 4e-9 * block * sum(sizes)
            raise PrunerError(
                f"obert keeps block={block} numbers a weight: {need:.3g} GB for {sum(sizes):,} weights, more than "
                f"fisher_gb={self.settings.fisher_gb:g}",
                remedy,
            )
        raise PrunerError(f"block={block} doesn't divide the number of weights of every matrix", remedy)

    def running(self, layer: MaskedLayer) -> dict[str, Tensor]:
        block = self.settings.block
        inverse = layer.weight.new_zeros(layer.size // block, block, block)
        self._forget(inverse)
        return {"inverse": inverse.view(*layer.weight.shape, block)}

    def _forget(self, inverse: Tensor) -> None:
        inverse.zero_().diagonal(dim1=1, dim2=2).fill_(1 / self.settings.damp)

    def _inverse(self, layer: MaskedLayer) -> Tensor:
        """F^-1 of each block, (blocks, B, B)."""
        return layer.running["inverse"].view(-1, self.settings.block, self.settings.block)

    def _diagonal(self, layer: MaskedLayer) -> Tensor:
        """[F^-1]_qq of each weight, in W's shape; above 0, which rounding may undo."""
        found = self._inverse(layer).diagonal(dim1=1, dim2=2).reshape(layer.weight.shape)
        return found.clamp(min=1e-30)

    @elementwise
    def observe(self, layer: MaskedLayer, gradient: Tensor, step: int) -> None:
        every = self.settings.mask_every
        m = min(self.settings.gradients, every)
        known = step % every - (every - m)
        if known < 0:
            return
        inverse = self._inverse(layer)
        if known == 0:
            self._forget(inverse)
        # A pruned weight can't make up for anything.
        g = (gradient * layer.mask).reshape(-1, self.settings.block, 1)
        u = torch.bmm(inverse, g)
        inverse.baddbmm_(u / (torch.bmm(g.mT, u) + m), u.mT, alpha=-1)

    @elementwise
    def score(self, layer: MaskedLayer) -> Tensor:
        return (layer.weight.detach() * layer.mask).square_().div_(2 * self._diagonal(layer))

    @elementwise
    def select(self, layer: MaskedLayer, kept: Any) -> Tensor:
        before = layer.mask.clone()
        mask = highest(self.score(layer), kept)
        weight = layer.weight.detach()
        removed = (weight * (before & ~mask)).div_(self._diagonal(layer)).reshape(-1, self.settings.block, 1)
        weight.sub_(torch.bmm(self._inverse(layer), removed).view(weight.shape))
        return mask
