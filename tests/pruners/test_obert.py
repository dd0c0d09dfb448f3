"""oBERT against its equations in plain numpy: each block's Fisher matrix inverted as a whole, over several steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gradients import RATE, SHAPES, STEPS, Array, gradients, highest, started, train

from pruners.errors import PrunerError
from pruners.masking import refresh
from pruners.obert import Obert, ObertSettings

# Every matrix has a multiple of it; curvature that matters beside it.
BLOCK, DAMP = 3, 0.05


def inverses(told: list[Array], masks: Array, m: int) -> Array:
    """(lambda I + 1/m sum g g^T)^-1 of each block of a matrix, of the gradients of weights that are left."""
    blocks = np.stack([DAMP * np.eye(BLOCK)] * (masks.size // BLOCK))
    for gradient in told:
        g = (gradient * masks).reshape(-1, BLOCK)
        blocks += np.einsum("ki,kj->kij", g, g) / m
    return np.linalg.inv(blocks)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize(("every", "m"), [(1, 1), (3, 3), (3, 2)])
def test_masks_and_weights_are_those_of_the_equations(every: int, m: int, scope: str, stacked: bool) -> None:
    settings = ObertSettings(scope=scope, block=BLOCK, damp=DAMP, mask_every=every, gradients=m)  # type: ignore[arg-type]
    pruner = Obert(settings)
    layers = started(pruner, stacked)
    weights = [layer.weight.detach().numpy().copy() for layer in layers]
    masks = [np.ones(shape, bool) for shape in SHAPES]
    fisher = [inverses([], mask, m) for mask in masks]
    removed_in_all, moved = 0, 0.0
    told: list[list[Array]] = []
    for step in range(STEPS):
        train(pruner, layers, step)
        if step % every == 0:
            density = 0.2 + 0.8 * (1 - min(1.0, step / STEPS / 0.6)) ** 3
            diagonals = [
                np.stack([np.diag(block) for block in own]).reshape(shape)
                for own, shape in zip(fisher, SHAPES, strict=True)
            ]
            saliency = [
                (weight * mask) ** 2 / (2 * diagonal)
                for weight, mask, diagonal in zip(weights, masks, diagonals, strict=True)
            ]
            chosen = highest(saliency, density, scope)
            for index, mask in enumerate(chosen):
                assert not (mask & ~masks[index]).any()
                update = np.zeros(weights[index].size)
                for q in np.flatnonzero(masks[index] & ~mask):
                    block, place = divmod(q, BLOCK)
                    column = fisher[index][block][:, place]
                    update[block * BLOCK : (block + 1) * BLOCK] -= weights[index].flat[q] * column / column[place]
                    removed_in_all += 1
                weights[index] += update.reshape(weights[index].shape)
                moved = max(moved, float(np.abs(update.reshape(mask.shape) * mask).max()))
            masks = chosen
            told = []
        told.append(gradients(step))
        for index, mask in enumerate(masks):
            if len(told) > every - m:
                fisher[index] = inverses([own[index] for own in told[every - m :]], mask, m)
            weights[index] -= RATE * gradients(step)[index] * mask
        for layer, mask, weight in zip(layers, masks, weights, strict=True):
            assert np.array_equal(layer.mask.numpy(), mask)
            np.testing.assert_allclose(layer.weight.detach().numpy(), weight, rtol=1e-9, atol=1e-12)
    assert sum(int(mask.sum()) for mask in masks) == math.floor(0.2 * 87) == 87 - removed_in_all
    # What is left did make up for what was removed.
    assert moved > 0.01


def test_what_is_left_of_a_quadratic_loss_moves_to_its_minimum() -> None:
    """With one weight removed OBS is exact: the rest of its block goes where F's quadratic is least without it."""
    pruner = Obert(ObertSettings(block=4, damp=0.1, mask_every=6))
    layers = started(Obert(ObertSettings(block=3)), False)[:1]
    (layer,) = layers
    layer.running = pruner.running(layer)
    draw = torch.Generator().manual_seed(0)
    told = torch.randn(6, 24, generator=draw, dtype=torch.float64)
    for step, gradient in enumerate(told):
        pruner.observe(layer, gradient.view(4, 6), step)
    before = layer.weight.detach().clone().reshape(-1)
    refresh(pruner, layers, 0.96)
    after, gone = layer.weight.detach().reshape(-1), int((~layer.mask).flatten().nonzero())
    first = gone // 4 * 4
    g = told[:, first : first + 4]
    fisher = 0.1 * torch.eye(4, dtype=torch.float64) + g.T @ g / 6
    others = [i for i in range(4) if i != gone - first]
    # With w_q set to 0, of all changes of the others the one with the least loss: F_oo d_o = F_oq w_q.
    least = torch.linalg.solve(fisher[others][:, others], fisher[others, gone - first] * before[gone])
    torch.testing.assert_close(after[first : first + 4][others] - before[first : first + 4][others], least)
    assert after[gone].abs() < 1e-12
    outside = torch.ones(24, dtype=torch.bool)
    outside[first : first + 4] = False
    assert torch.equal(after[outside], before[outside])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        # 87 weights of 8 numbers of 4 bytes; 3 divides 24 and 15, 4 and 2 don't.
        (
            {"block": 8, "fisher_gb": 4 * 87 * 4.5e-9},
            "block=8 numbers a weight: 2.78e-06 GB for 87 weights.*block=3$",
        ),
        ({"block": 8, "fisher_gb": 0.0}, "more than fisher_gb=0; give more fisher_gb, or choose snip-momentum"),
        ({"block": 16}, "block=16 doesn't divide the number of weights of every matrix; give block=3"),
    ],
)
def test_what_doesn_t_fit_is_refused_with_what_would(given: dict[str, float], says: str) -> None:
    with pytest.raises(PrunerError, match=says):
        started(Obert(ObertSettings(**given)), False)  # type: ignore[arg-type]
