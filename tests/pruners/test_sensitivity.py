"""Methods that rank by running means of |W * gradient|, against their equations in plain numpy over several steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gradients import RATE, SHAPES, STEPS, Array, gradients, highest, started, train
from torch import Tensor, nn

from pruners.errors import SettingError
from pruners.masking import attach, refresh, straight_through
from pruners.masks.layer import MaskedLayer
from pruners.platon import Platon
from pruners.scored import ScoredPruner, ScoredSettings
from pruners.sensitivity import SensitivityPruner
from pruners.smp import SMP, SMPSettings
from pruners.snip_momentum import SnipMomentum, SnipMomentumSettings


class Snip:
    """score = 0.9 score + |W * M * gradient|."""

    def __init__(self, every: int) -> None:
        self.scores = [np.zeros(shape) for shape in SHAPES]

    def observe(self, sensitivity: list[Array], step: int) -> None:
        self.scores = [0.9 * score + own for score, own in zip(self.scores, sensitivity, strict=True)]


class Uncertain:
    """Ibar = 0.85 Ibar + 0.15 I, Ubar = 0.95 Ubar + 0.05 |I - Ibar|, I the mean of the last `every` sensitivities."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.mean, self.spread, self.scores = ([np.zeros(shape) for shape in SHAPES] for _ in range(3))
        self.seen: list[list[Array]] = []

    def observe(self, sensitivity: list[Array], step: int) -> None:
        self.seen.append(sensitivity)
        if len(self.seen) % self.every:
            return
        for index in range(len(SHAPES)):
            own = sum(told[index] for told in self.seen[-self.every :]) / self.every
            self.mean[index] = 0.85 * self.mean[index] + 0.15 * own
            self.spread[index] = 0.95 * self.spread[index] + 0.05 * np.abs(own - self.mean[index])
            self.scores[index] = self.mean[index] * self.spread[index]


CASES: dict[str, tuple[type[SensitivityPruner], Callable[[int], Any]]] = {
    "snip-momentum": (SnipMomentum, Snip),
    "platon": (Platon, Uncertain),
}


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("regrow", [False, True])
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("method", CASES)
def test_scores_and_masks_are_those_of_the_equations(
    method: str, every: int, scope: str, regrow: bool, stacked: bool
) -> None:
    kind, reference = CASES[method]
    pruner = kind(kind.Settings(scope=scope, regrow=regrow, mask_every=every))  # type: ignore[call-arg]
    layers = started(pruner, stacked)
    plain, weights = reference(every), [layer.weight.detach().numpy().copy() for layer in layers]
    masks = [np.ones(shape, bool) for shape in SHAPES]
    returned = 0
    for step in range(STEPS):
        train(pruner, layers, step)
        if step % every == 0:
            # At the density of the schedule's formula: exponential for snip-momentum, cubic for platon.
            start, end = (0.05, 0.7) if method == "platon" else (0, 0.6)
            t = min(1.0, max(0.0, (step / STEPS - start) / (end - start)))
            density = 0.2**t if method == "snip-momentum" else 0.2 + 0.8 * (1 - t) ** 3
            chosen = highest(plain.scores, density, scope)
            returned += sum(int((new & ~old).sum()) for new, old in zip(chosen, masks, strict=True))
            masks = chosen
        found = [
            np.abs(weight * own * (1 if regrow else mask))
            for weight, own, mask in zip(weights, gradients(step), masks, strict=True)
        ]
        plain.observe(found, step)
        for weight, own, mask in zip(weights, gradients(step), masks, strict=True):
            weight -= RATE * own * mask
        for layer, mask, weight, score in zip(layers, masks, weights, plain.scores, strict=True):
            assert np.array_equal(layer.mask.numpy(), mask)
            np.testing.assert_allclose(layer.weight.detach().numpy(), weight, rtol=1e-12)
            np.testing.assert_allclose(pruner.score(layer).numpy(), score, rtol=1e-10, atol=1e-300)
    assert sum(int(mask.sum()) for mask in masks) == math.floor(0.2 * 87)
    assert returned or not regrow


@pytest.mark.parametrize("method", CASES)
def test_weights_can_t_be_removed_before_a_gradient_is_known(method: str) -> None:
    with pytest.raises(SettingError, match="ramp_end must be at least 1e-06, not 0"):
        CASES[method][0].Settings(ramp_end=0.0)


# -- the hook --------------------------------------------------------------------------------------------------------


class Watching(ScoredPruner):
    """A plugin that keeps the sum of what it is told, a layer at a time, and a number a row beside it."""

    name, title = "watching", "Watching"

    def running(self, layer: MaskedLayer) -> dict[str, Tensor]:
        return {"sum": torch.zeros_like(layer.weight), "pairs": torch.zeros(*layer.weight.shape, 2).to(layer.weight)}

    def observe(self, layer: MaskedLayer, gradient: Tensor, step: int) -> None:
        assert gradient.shape == layer.weight.shape and gradient.dtype == layer.weight.dtype
        layer.running["sum"] += (step + 1) * gradient
        layer.running["pairs"][..., 1] += gradient


@pytest.mark.parametrize("stacked", [False, True])
def test_a_hook_is_told_each_gradient_before_it_changes(stacked: bool) -> None:
    pruner = Watching(ScoredSettings(init="magnitude"))
    layers = started(pruner, stacked)
    for step in range(3):
        refresh(pruner, layers, 0.5)
        for layer, own in zip(layers, gradients(step), strict=True):
            # No example has reached the second matrix.
            layer.effective.grad = None if layer is layers[1] else torch.from_numpy(own)
        straight_through(pruner, layers, 0.0, step)
    for index, layer in enumerate(layers):
        told = [gradients(step)[index] * (index != 1) for step in range(3)]
        np.testing.assert_allclose(layer.running["sum"].numpy(), told[0] + 2 * told[1] + 3 * told[2], atol=1e-12)
        np.testing.assert_allclose(layer.running["pairs"][..., 1].numpy(), sum(told), atol=1e-12)
        assert not layer.running["pairs"][..., 0].any()


class Everything(SMP):
    """Frozen weights, some channels of which may fall, and all gradients wanted."""

    name, title = "everything", "Everything"

    def observe(self, layer: MaskedLayer, gradient: Tensor, step: int) -> None:
        assert gradient.shape == layer.weight.shape


def test_who_observes_is_told_of_weights_outside_the_channels_too() -> None:
    names = {f"attention.self.{part}": (8, 8) for part in ("query", "key", "value")}
    names |= {"attention.output.dense": (8, 8), "intermediate.dense": (24, 8), "output.dense": (8, 24)}
    parts = []
    for kind in (SMP, Everything):
        torch.manual_seed(0)
        pruner = kind(SMPSettings(init="magnitude"))
        layers = [
            MaskedLayer(f"encoder.layer.0.{name}", name, nn.Linear(inputs, out), heads=4)
            for name, (out, inputs) in names.items()
        ]
        for layer in layers:
            layer.narrows = True
        attach(pruner, layers, {})
        pruner.begin(layers, 0.1)
        refresh(pruner, layers, 0.1)
        parts.append([layer.part for layer in layers])
    assert any(part is not None for part in parts[0]) and not any(part is not None for part in parts[1])


def test_masks_are_chosen_in_some_step() -> None:
    with pytest.raises(SettingError, match="mask_every must be at least 1, not 0"):
        SnipMomentumSettings(mask_every=0)
