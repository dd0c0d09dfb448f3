"""The papers' equations, each against a slow reference written from the formula, over shapes, ties and densities."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruners.base import Pruner, PrunerSettings
from pruners.errors import ScoreError
from pruners.l0 import L0, L0Settings
from pruners.magnitude import Magnitude
from pruners.masking import kept, refresh, straight_through
from pruners.masks.layer import MaskedLayer
from pruners.movement import Movement, MovementSettings
from pruners.schedule import cubic_rise
from pruners.scored import ScoredPruner, ScoredSettings
from pruners.smp import SMP, SMPSettings
from pruners.soft_movement import SoftMovement, SoftMovementSettings

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6))
# Few different values, so that ties are everywhere.
VALUES = st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0])
DENSITIES = st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def stacks(draw: st.DrawFn) -> list[MaskedLayer]:
    """One to three blocks of the same one or two kinds of matrix, with scores full of ties."""
    shapes = draw(st.lists(SHAPES, min_size=1, max_size=2))
    layers = []
    for block in range(draw(st.integers(1, 3))):
        for kind, (rows, columns) in enumerate(shapes):
            module = nn.Linear(columns, rows, bias=False, dtype=torch.float64)
            numbers = [[draw(VALUES) for _ in range(columns)] for _ in range(rows)]
            module.weight.data = torch.tensor(numbers, dtype=torch.float64)
            layer = MaskedLayer(f"block.{block}.kind{kind}", f"kind{kind}", module)
            layer.learn_scores(torch.tensor([[draw(VALUES) for _ in range(columns)] for _ in range(rows)]), False)
            layers.append(layer)
    return layers


def flat(layer: MaskedLayer) -> list[float]:
    found: list[float] = layer.score().flatten().tolist()
    return found


def wanted(layers: list[MaskedLayer], density: float) -> int:
    """int(density * prunable), exactly."""
    return math.floor(Fraction(round(density * 100), 100) * sum(len(flat(layer)) for layer in layers))


# -- which weights stay ----------------------------------------------------------------------------------


@given(stacks(), DENSITIES, st.sampled_from(["L", "S", "G"]))
@settings(max_examples=150)
def test_each_mask_is_the_highest_scores_of_its_matrix_ties_by_index(
    layers: list[MaskedLayer], density: float, allocation: Any
) -> None:
    refresh(SMP(SMPSettings(allocation=allocation)), layers, density)
    assert kept(layers) == wanted(layers, density)
    for layer in layers:
        scores, count = flat(layer), int(layer.mask.sum())
        first = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:count]
        assert layer.mask.flatten().nonzero().flatten().tolist() == sorted(first)


@given(stacks(), DENSITIES)
@settings(max_examples=100)
def test_one_global_top_k_ranks_all_matrices_together(layers: list[MaskedLayer], density: float) -> None:
    every = [(-score, place, index) for place, layer in enumerate(layers) for index, score in enumerate(flat(layer))]
    best = {(place, index) for _, place, index in sorted(every)[: wanted(layers, density)]}
    for pruner in (SMP(SMPSettings(allocation="G")), SoftMovement(), L0()):
        refresh(pruner, layers, density)
        for place, layer in enumerate(layers):
            ones = layer.mask.flatten().nonzero().flatten().tolist()
            assert {(place, index) for index in ones} == {entry for entry in best if entry[0] == place}


@given(stacks(), DENSITIES)
@settings(max_examples=100)
def test_soft_movement_is_its_paper_s_rule_at_the_tau_that_it_reports(
    layers: list[MaskedLayer], density: float
) -> None:
    pruner = SoftMovement(SoftMovementSettings(penalty=40))
    refresh(pruner, layers, density)
    report = pruner.report(layers)
    assert report["lambda"] == 40
    for layer in layers:
        for score, stays in zip(flat(layer), layer.mask.flatten().tolist(), strict=True):
            sigmoid = 1 / (1 + math.exp(-score))
            # sigma(S) > tau stays, sigma(S) < tau goes; of those on tau as many stay as are wanted.
            if sigmoid > report["tau"] + 1e-12:
                assert stays
            if sigmoid < report["tau"] - 1e-12:
                assert not stays


@given(stacks(), DENSITIES, st.sampled_from([1.0, 3.0, 4.0]))
@settings(max_examples=150)
def test_smp_s_is_eq_4_with_its_clamp(layers: list[MaskedLayer], density: float, p: float) -> None:
    """v_l = v L r_l / sum(r), r_l = mean sigmoid(S_l / p), never above 1; what one can't hold goes to the others."""
    total = wanted(layers, density)
    pruner = SMP(SMPSettings(allocation="S", temperature=p))
    counts = [int(count) for count in pruner.allocate(layers, total)]
    assert sum(counts) == total
    v = total / sum(len(flat(layer)) for layer in layers)
    for kind in {layer.kind for layer in layers}:
        members = [i for i, layer in enumerate(layers) if layer.kind == kind]
        r = {i: sum(1 / (1 + math.exp(-s / p)) for s in flat(layers[i])) / len(flat(layers[i])) for i in members}
        share = dict.fromkeys(members, 0.0)
        left, open_ = v * len(members), list(members)
        while open_:
            share |= {i: left * r[i] / sum(r[j] for j in open_) for i in open_}
            over = [i for i in open_ if share[i] > 1]
            if not over:
                break
            highest = max(over, key=lambda i: r[i])
            share[highest], left = 1.0, left - 1
            open_.remove(highest)
        for i in members:
            assert abs(counts[i] - share[i] * len(flat(layers[i]))) < 1 + 1e-6


@given(stacks(), DENSITIES, st.data())
@settings(max_examples=60)
def test_a_nan_among_the_scores_is_an_error_whatever_the_method(
    layers: list[MaskedLayer], density: float, data: st.DataObject
) -> None:
    spoilt = data.draw(st.sampled_from(layers))
    place = data.draw(st.integers(0, len(flat(spoilt)) - 1))
    assert spoilt.scores is not None
    spoilt.scores.data.view(-1)[place] = math.nan
    allocations: list[Any] = ["S", "L", "G"]
    for pruner in (*(SMP(SMPSettings(allocation=name)) for name in allocations), Movement(), SoftMovement(), L0()):
        with pytest.raises(ScoreError):
            refresh(pruner, layers, density)


# -- schedules -------------------------------------------------------------------------------------------

TENTHS = st.integers(0, 100).map(lambda tenth: Fraction(tenth, 100))


@given(TENTHS, TENTHS, st.tuples(TENTHS, TENTHS).filter(lambda ends: ends[0] < ends[1]), st.sampled_from([3, 1]))
def test_the_density_is_eq_5_in_exact_arithmetic(
    t: Fraction, final: Fraction, ends: tuple[Fraction, Fraction], power: int
) -> None:
    start, end = ends
    # v_f + (1 - v_f) (1 - (t - start) / (end - start))^3 between start and end; linear for RoBERTa.
    way = min(Fraction(1), max(Fraction(0), (t - start) / (end - start)))
    expected = final + (1 - final) * (1 - way) ** power
    schedule: Any = {3: "cubic", 1: "linear"}[power]
    pruner = Pruner(PrunerSettings(schedule=schedule, ramp_start=float(start), ramp_end=float(end)))
    assert pruner.density(float(t), float(final)) == pytest.approx(float(expected), abs=1e-12)


@given(TENTHS, st.integers(0, 1000))
def test_the_penalty_s_weight_rises_over_the_whole_run(t: Fraction, final: int) -> None:
    assert cubic_rise(float(t), final) == pytest.approx(float(final * (1 - (1 - t) ** 3)), abs=1e-9)


# -- gradients -------------------------------------------------------------------------------------------


@given(stacks(), st.floats(0, 500))
@settings(max_examples=60)
def test_the_penalty_s_gradient_is_the_derivative_of_r(layers: list[MaskedLayer], weight: float) -> None:
    """R(S) = mean over matrices of the mean of sigmoid(S): its slope, by central differences of the plain formula."""
    pruner = ScoredPruner(ScoredSettings())
    numbers = [flat(layer) for layer in layers]

    def r(scores: list[list[float]]) -> float:
        return sum(sum(1 / (1 + math.exp(-s)) for s in own) / len(own) for own in scores) / len(scores)

    for place, layer in enumerate(layers):
        gradient = torch.zeros_like(layer.weight)
        pruner.add_penalty_gradient(layer, gradient, weight, len(layers))
        index = (7 * place) % len(numbers[place])
        up, down = ([list(own) for own in numbers] for _ in range(2))
        up[place][index] += 1e-5
        down[place][index] -= 1e-5
        slope = weight * (r(up) - r(down)) / 2e-5
        assert gradient.flatten()[index].item() == pytest.approx(slope, rel=1e-4, abs=1e-7 * (1 + weight))


@given(stacks(), DENSITIES, st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_straight_through_element_by_element(
    layers: list[MaskedLayer], density: float, trained: bool, draw: Any
) -> None:
    """dL/dS = dL/dW' W, for pruned weights too; dL/dW = dL/dW' M, where weights train."""
    pruner: Pruner = Movement(MovementSettings(init="zero")) if trained else SMP(SMPSettings(allocation="L"))
    if trained:
        for layer in layers:
            layer.learn_weight()
    refresh(pruner, layers, density)
    upstream = [[[draw.uniform(-2, 2) for _ in row] for row in layer.weight.tolist()] for layer in layers]
    for layer, numbers in zip(layers, upstream, strict=True):
        layer.effective.requires_grad_(True)
        layer.effective.grad = torch.tensor(numbers, dtype=torch.float64)
    straight_through(pruner, layers, 0.0)
    for layer, numbers in zip(layers, upstream, strict=True):
        assert layer.scores is not None
        w, m = layer.weight.detach().tolist(), layer.mask.tolist()
        found = {"S": layer.scores.grad, "W": layer.weight.grad if trained else None}
        for i, row in enumerate(numbers):
            for j, g in enumerate(row):
                assert found["S"] is not None and found["S"][i, j].item() == pytest.approx(g * w[i][j], abs=1e-12)
                if trained:
                    assert found["W"] is not None and found["W"][i, j].item() == pytest.approx(g * m[i][j], abs=1e-12)
        assert trained or layer.weight.grad is None


@given(stacks(), DENSITIES)
@settings(max_examples=60)
def test_magnitude_ranks_the_weights_themselves(layers: list[MaskedLayer], density: float) -> None:
    for layer in layers:
        layer.scores = None
    refresh(Magnitude(), layers, density)
    for layer in layers:
        numbers = [abs(value) for value in layer.weight.flatten().tolist()]
        first = sorted(range(len(numbers)), key=lambda index: (-numbers[index], index))[: int(layer.mask.sum())]
        assert layer.mask.flatten().nonzero().flatten().tolist() == sorted(first)


def test_every_method_has_its_paper_and_the_values_of_its_recipe() -> None:
    from pruners.methods import METHODS
    from smpcli.settings import read_recipe

    papers = {
        "smp": "https://arxiv.org/abs/2210.06210",
        "movement": "https://arxiv.org/abs/2005.07683",
        "soft-movement": "https://arxiv.org/abs/2005.07683",
        "magnitude": "https://arxiv.org/abs/1710.01878",
        "l0": "https://arxiv.org/abs/1712.01312",
        "gmp": "https://arxiv.org/abs/2210.06384",
        "snip-momentum": "https://arxiv.org/abs/1810.02340",
        "platon": "https://arxiv.org/abs/2206.12562",
        "obert": "https://arxiv.org/abs/2203.07259",
    }
    for name, paper in papers.items():
        recipe = read_recipe(f"{name}-paper")
        assert recipe["method"] == name and METHODS.load(name).paper == paper
        if METHODS.load(name).trains_scores:
            assert recipe["init"] == "zero"
    values = {name: read_recipe(f"{name}-paper") for name in ("movement", "soft-movement", "l0")}
    assert {name: (r["penalty"], r["scores_lr"], r["weights_lr"]) for name, r in values.items()} == {
        "movement": (0, 0.01, 3e-5),
        "soft-movement": (400, 0.01, 3e-5),
        "l0": (125, 0.1, 3e-5),
    }
    assert L0Settings().penalty == 125
