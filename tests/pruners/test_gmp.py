"""GMP*: its schedule in steps, masks that stand between prunings, and magnitude over all matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruners.gmp import GMP, GMPSettings
from pruners.masking import attach, refresh
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import stack_layers
from pruners.schedule import stepped

MakeLayers = Callable[..., list[MaskedLayer]]
SHAPES = [(6, 4), (4, 6), (5, 5)]
TOTAL = 6 * 4 + 4 * 6 + 5 * 5


@given(
    progress=st.integers(0, 1000),
    start=st.integers(0, 500),
    length=st.integers(1, 500),
    parts=st.integers(0, 40),
    sparsity=st.integers(0, 99),
    initial=st.integers(0, 100),
)
def test_the_density_is_that_of_the_formula(
    progress: int, start: int, length: int, parts: int, sparsity: int, initial: int
) -> None:
    # In exact thousandths of a run.
    x = Fraction(min(max(progress - start, 0), length), length)
    if parts:
        x = Fraction(math.floor(x * parts), parts)
    final, first = 1 - Fraction(sparsity, 100), 1 - Fraction(min(initial, sparsity), 100)
    expected = final + (first - final) * (1 - x) ** 3 if progress >= start else Fraction(1)
    pruner = GMP(
        GMPSettings(
            ramp_start=start / 1000,
            ramp_end=(start + length) / 1000,
            prunings=parts,
            initial_sparsity=initial / 100,
        )
    )
    found = pruner.density(progress / 1000, 1 - sparsity / 100)
    # Of a fraction at the edge of a pruning, binary numbers may lie on either side.
    at_edge = parts and (Fraction(min(max(progress - start, 0), length), length) * parts).denominator == 1
    if not at_edge:
        assert found == pytest.approx(float(expected), abs=1e-12)
    assert 1 - sparsity / 100 <= found + 1e-12 and found <= 1


def test_the_ramp_goes_in_so_many_equal_steps() -> None:
    assert [stepped(t / 8, 0.25, 0.75, 2) for t in range(9)] == [0, 0, 0, 0, 0.5, 0.5, 1, 1, 1]
    assert [stepped(t / 8, 0.25, 0.75, 0) for t in range(9)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    linear = GMP(GMPSettings(schedule="linear", ramp_start=0.25, ramp_end=0.75, prunings=2))
    assert [linear.density(t / 8, 0.1) for t in (1, 2, 4, 6)] == pytest.approx([1, 0.5, 0.3, 0.1])


def highest(layers: list[MaskedLayer], kept: int) -> list[list[int]]:
    """The largest |W| over all matrices, by sorting; of equal ones those that come first."""
    every = [
        (abs(w), -i, -j) for i, layer in enumerate(layers) for j, w in enumerate(layer.weight.flatten().tolist())
    ]
    chosen = {(-i, -j) for _, i, j in sorted(every, reverse=True)[:kept]}
    return [[j for j in range(layer.size) if (i, j) in chosen] for i, layer in enumerate(layers)]


@pytest.mark.parametrize("stacked", [False, True])
def test_masks_are_magnitude_s_at_each_pruning_and_stand_between(make_layers: MakeLayers, stacked: bool) -> None:
    layers = make_layers(SHAPES)
    pruner = GMP(GMPSettings(ramp_start=0.2, ramp_end=0.8, prunings=3))
    attach(pruner, layers, {})
    if stacked:
        stack_layers(layers)
    pruner.begin(layers, 0.1)
    expected = [list(range(layer.size)) for layer in layers]
    changes, before = 0, TOTAL
    for step in range(21):
        density = pruner.density(step / 20, 0.1)
        if (kept := int(density * TOTAL + 1e-9)) != before:
            expected, changes, before = highest(layers, kept), changes + 1, kept
        refresh(pruner, layers, density)
        found = [layer.mask.flatten().nonzero().flatten().tolist() for layer in layers]
        assert found == expected
        assert all(torch.equal(layer.effective, layer.weight * layer.mask) for layer in layers)
        # Training changes what magnitude would say.
        with torch.no_grad():
            for layer in layers:
                layer.weight.copy_(torch.randn_like(layer.weight))
    # The first step, and one for each of three parts of the ramp.
    assert changes == 4


@pytest.mark.parametrize("stacked", [False, True])
def test_a_resumed_run_keeps_the_masks_of_its_checkpoint(make_layers: MakeLayers, stacked: bool) -> None:
    layers = make_layers(SHAPES)
    first = GMP()
    attach(first, layers, {})
    if stacked:
        stack_layers(layers)
    first.begin(layers, 0.1)
    refresh(first, layers, 0.3)
    masks = [layer.mask.clone() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.randn_like(layer.weight))
    again = GMP()
    again.begin(layers, 0.1)
    refresh(again, layers, 0.3)
    assert all(torch.equal(layer.mask, mask) for layer, mask in zip(layers, masks, strict=True))
    refresh(again, layers, 0.2)
    assert sum(int(layer.mask.sum()) for layer in layers) == int(0.2 * TOTAL)


def test_local_densities_are_equal(make_layers: MakeLayers) -> None:
    layers = make_layers([(10, 10), (10, 10)])
    layers[0].weight.mul_(100)
    for settings, expected in ((GMPSettings(allocation="L"), [20, 20]), (GMPSettings(), [40, 0])):
        pruner = GMP(settings)
        pruner.begin(layers, 0.2)
        refresh(pruner, layers, 1.0)
        refresh(pruner, layers, 0.2)
        assert [int(layer.mask.sum()) for layer in layers] == expected
