"""Small matrices, gradients for them, and a plain rule for masks, for methods that look at gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pruners.base import Pruner
from pruners.masking import attach, refresh, start_running, straight_through
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import stack_layers

SHAPES = [(4, 6), (6, 4), (5, 3), (4, 6)]
RATE, STEPS = 0.05, 9
Array = np.ndarray[Any, Any]


def started(pruner: Pruner, stacked: bool, dtype: torch.dtype = torch.float64) -> list[MaskedLayer]:
    torch.manual_seed(1)
    layers = [
        MaskedLayer(f"block.{index}.dense", "dense", nn.Linear(inputs, out, dtype=dtype))
        for index, (out, inputs) in enumerate(SHAPES)
    ]
    pruner.check(layers)
    attach(pruner, layers, {})
    if stacked:
        stack_layers(layers)
    pruner.begin(layers, 0.2)
    start_running(pruner, layers)
    return layers


def gradients(step: int) -> list[Array]:
    draw = np.random.default_rng(step)
    return [draw.normal(size=shape) for shape in SHAPES]


def train(pruner: Pruner, layers: list[MaskedLayer], step: int) -> None:
    """One step of plain gradient descent, its masks chosen where they are due."""
    if step % pruner.settings.mask_every == 0:
        refresh(pruner, layers, pruner.density(step / STEPS, 0.2))
    for layer, own in zip(layers, gradients(step), strict=True):
        layer.effective.grad = torch.from_numpy(own).to(layer.effective)
    before = {layer.name: layer.weight.detach().clone() for layer in layers}
    straight_through(pruner, layers, 0.0, step)
    with torch.no_grad():
        for layer, own in zip(layers, gradients(step), strict=True):
            assert torch.equal(layer.weight, before[layer.name])
            layer.weight -= RATE * torch.from_numpy(own).to(layer.weight) * layer.mask


def highest(scores: Sequence[Array], density: float, scope: str) -> list[Array]:
    """Masks of the highest scores, ties by index, of each matrix or of all."""
    total = sum(score.size for score in scores)
    kept = math.floor(round(density, 12) * total)
    if scope == "global":
        order = np.argsort(-np.concatenate([score.reshape(-1) for score in scores]), kind="stable")
        chosen = np.zeros(total, bool)
        chosen[order[:kept]] = True
        parts = np.split(chosen, np.cumsum([score.size for score in scores])[:-1])
        return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]
    # The same density everywhere; what rounding leaves goes to the largest remainders first.
    shares = [kept / total * score.size for score in scores]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for index in by_remainder[: kept - sum(counts)]:
        counts[index] += 1
    masks = []
    for score, count in zip(scores, counts, strict=True):
        chosen = np.zeros(score.size, bool)
        chosen[np.argsort(-score.reshape(-1), kind="stable")[:count]] = True
        masks.append(chosen.reshape(score.shape))
    return masks
