"""L0 regularisation with hard-concrete gates, steered so that --sparsity means what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pruners.base import Counts, setting
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import elementwise, stacks_of
from pruners.masks.stacked_allocation import global_counts
from pruners.movement import Movement, MovementSettings
from pruners.scored import structure_setting

# The hard-concrete distribution's temperature and the interval that it is stretched to, as in the paper.
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
# P(z > 0) = sigmoid(log alpha - SHIFT), eq. 12.
SHIFT = BETA * math.log(-GAMMA / ZETA)
# Scores that the offset is searched with: it needs their distribution, not all of them.
SAMPLE = 2**16


@dataclass
class L0Settings(MovementSettings):
    # A gate opens over about five units of log alpha: the first scores must tell weights apart on that scale.
    init_scale: float = setting(2.0, "spread c of the first scores: S = c (importance / mean - 1)", 0)
    scores_lr: float = setting(0.3, "peak learning rate of the scores", 0)
    weights_lr: float = setting(3e-4, "peak learning rate of the weights", 0)
    penalty: float = setting(125.0, "final weight lambda of the penalty on the expected number of gates", 0)
    # Gates that are drawn open outside the chosen channels, too: with `auto` it loses 11 points at 90 %.
    structure: float | Literal["auto"] = structure_setting(1.0)


class L0(Movement):
    """L0 regularisation: hard-concrete gates and weights are trained, steered to the sparsity asked for.

    log alpha = S - tau. The paper leaves the number of open gates to lambda alone; here tau follows the density
    schedule: each step it is the value at which the expected number of open gates is the wanted one. The mask, and
    what remains in the end, are the gates that are most likely open: the highest S over all matrices.
    """

    name = "l0"
    title = "L0"
    paper = "https://arxiv.org/abs/1712.01312"
    Settings: ClassVar[type[MovementSettings]] = L0Settings
    settings: L0Settings
    tau: float | Tensor = 0.0

    def allocate(self, layers: Sequence[MaskedLayer], kept: int) -> Counts:
        # An accelerator waits for each operation longer than it computes: better 64 parts at a time than two.
        search = (2, 60) if stacks_of(layers) is None else (64, 10)
        scores = [self.score(layer) for layer in layers]
        self.tau = _offset(scores, kept / sum(layer.size for layer in layers), *search)
        return global_counts(self, layers, kept)

    @elementwise
    def gates(self, layer: MaskedLayer) -> tuple[Tensor, Tensor]:
        """z = clamp(s (zeta - gamma) + gamma, 0, 1), s = sigmoid((logit u + log alpha) / beta), u uniform; and dz/dS
        (eq. 10, 11); both (out, in)."""
        log_alpha = self.score(layer) - self.tau
        s = torch.rand_like(log_alpha).logit_().add_(log_alpha).div_(BETA).sigmoid_()
        stretched = s * (ZETA - GAMMA) + GAMMA
        inside = (stretched > 0) & (stretched < 1)
        return stretched.clamp_(0, 1), s.mul_(1 - s).mul_((ZETA - GAMMA) / BETA).mul_(inside)

    @elementwise
    def add_penalty_gradient(self, layer: MaskedLayer, gradient: Tensor, weight: float, layers: int) -> None:
        """R: mean over matrices of the mean of P(z > 0) (eq. 12), so dR/dS = p (1 - p) / (matrices * numel)."""
        p = (self.score(layer) - self.tau - SHIFT).sigmoid_()
        value = weight / (layers * layer.size)
        gradient.add_(p, alpha=value).addcmul_(p, p, value=-value)

    def report(self, layers: Sequence[MaskedLayer]) -> dict[str, float]:
        """tau: the offset of the scores that the run ended at; lambda: the penalty's final weight."""
        return {"tau": float(self.tau), "lambda": self.penalty}


def _offset(scores: Sequence[Tensor], density: float, parts: int, rounds: int) -> Tensor:
    """tau with mean P(z > 0) = density, a scalar: in each round the part of the last one that holds it.

    Over at most SAMPLE, evenly spaced scores.
    """
    step = max(1, sum(score.numel() for score in scores) // SAMPLE)
    sample = torch.cat([score.reshape(-1)[::step] for score in scores]).double()
    # At either end every gate is open, or none.
    low, high = sample.min() - 40, sample.max() + 40
    inner = torch.arange(1, parts, device=sample.device)
    for _ in range(rounds):
        width = (high - low) / parts
        # As tensors, so that no other device is waited for.
        too_many = (sample - (low + width * inner)[:, None] - SHIFT).sigmoid().mean(1) > density
        low = low + width * too_many.sum()
        high = low + width
    return (low + high) / 2
