"""Stacks against layers: the same masks bit for bit, the same gradients; each vector rule against the plain one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from pruners.base import Pruner
from pruners.gmp import GMP
from pruners.l0 import L0
from pruners.magnitude import Magnitude
from pruners.masking import attach, draw_gates, fold_factors, refresh, show_masks, straight_through
from pruners.masks import allocation
from pruners.masks.layer import MaskedLayer
from pruners.masks.selection import RowTopK
from pruners.masks.stack import Stacks, score_parameters, stack_layers, stacks_of, weight_parameters
from pruners.masks.stacked_allocation import KindShares, fit, global_counts, round_to_total
from pruners.masks.structure import _fit
from pruners.movement import Movement
from pruners.random_masks import Random
from pruners.scored import ScoredSettings
from pruners.smp import SMP, SMPSettings
from pruners.soft_movement import SoftMovement

BERT = {
    "attention.self.query": (8, 8),
    "attention.self.key": (8, 8),
    "attention.self.value": (8, 8),
    "attention.output.dense": (8, 8),
    "intermediate.dense": (24, 8),
    "output.dense": (8, 24),
}
#: Few different values: ties everywhere.
FEW = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0, math.inf])


def blocks(count: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[MaskedLayer]:
    torch.manual_seed(seed)
    return [
        MaskedLayer(f"encoder.layer.{block}.{kind}", kind, nn.Linear(inputs, out, dtype=dtype), heads=4)
        for block in range(count)
        for kind, (out, inputs) in BERT.items()
    ]


def both(
    make: Callable[[], Pruner], change: Callable[[list[MaskedLayer]], object] = lambda layers: None, **how: Any
) -> tuple[tuple[Pruner, list[MaskedLayer]], tuple[Pruner, list[MaskedLayer]]]:
    """The same method on the same layers, as they are and stacked."""
    found = []
    for stacked in (False, True):
        pruner, layers = make(), blocks(**how)
        attach(pruner, layers, {})
        change(layers)
        if stacked:
            stack_layers(layers)
        found.append((pruner, layers))
    return found[0], found[1]


# -- selection -------------------------------------------------------------------------------------------------------


def by_sorting(row: list[float], kept: int, inside: list[bool]) -> list[bool]:
    """The kept highest of those inside, ties by index: a stable sort, written out."""
    order = sorted((i for i in range(len(row)) if inside[i]), key=lambda i: (-row[i], i))
    return [i in order[:kept] for i in range(len(row))]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_rows_keep_their_highest_each_its_own_number(data: st.DataObject) -> None:
    n, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    rows = data.draw(st.lists(st.lists(FEW, min_size=size, max_size=size), min_size=n, max_size=n))
    inside = data.draw(st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=n, max_size=n))
    if data.draw(st.booleans()):
        inside = [[True] * size] * n
    kept = [data.draw(st.integers(0, sum(row))) for row in inside]
    # What the host knows of them may be exact, or nothing.
    least, most = data.draw(st.sampled_from([(min(kept), max(kept)), (0, size)]))
    counts = torch.tensor(kept, dtype=torch.float64)
    rule = RowTopK(n, size, torch.float32, torch.device("cpu"))
    out = torch.ones(n, size, dtype=torch.bool)
    given_inside = None if all(map(all, inside)) else torch.tensor(inside)
    found = rule.mask(torch.tensor(rows), counts, most - counts, least, most, given_inside, out)
    assert found is out
    assert out.tolist() == [by_sorting(*one) for one in zip(rows, kept, inside, strict=True)]


def test_a_row_with_a_nan_keeps_nothing_and_the_others_are_as_ever() -> None:
    rows = torch.tensor([[1.0, math.nan, 3.0], [1.0, 2.0, 3.0]])
    kept = torch.tensor([2, 2])
    found = RowTopK(2, 3, torch.float32, torch.device("cpu")).mask(rows, kept, 3 - kept, 0, 3)
    assert found.tolist() == [[False] * 3, [False, True, True]]


# -- counts ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_shares_are_rounded_as_the_plain_rule_rounds_them(data: st.DataObject) -> None:
    capacity = data.draw(st.lists(st.integers(0, 50), min_size=1, max_size=8))
    counts = [data.draw(st.integers(0, most)) for most in capacity]
    # Whole numbers moved about by fractions that add up to nothing, and stay within the capacities.
    shares = [float(count) for count in counts]
    for i in range(len(shares) - 1):
        part = data.draw(st.sampled_from([0.0, 0.25, 0.5, 1 / 3]))
        if shares[i] >= part and shares[i + 1] + part <= capacity[i + 1]:
            shares[i], shares[i + 1] = shares[i] - part, shares[i + 1] + part
    places = torch.arange(len(shares), dtype=torch.float64)
    found = round_to_total(torch.tensor(shares, dtype=torch.float64), sum(counts), places)
    assert found.tolist() == allocation.round_to_total(shares, capacity, sum(counts))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=18, max_size=18),
    st.integers(0, 3 * (4 * 64 + 2 * 192)),
    st.booleans(),
)
def test_densities_follow_importance_as_the_plain_rule_has_it(
    importance: list[float], kept: int, underflow: bool
) -> None:
    layers = blocks()
    if underflow:
        importance = [0.0 if i % 6 < 3 else value for i, value in enumerate(importance)]
    kinds, sizes = [layer.kind for layer in layers], [layer.size for layer in layers]
    plain = allocation.proportional_counts(importance, kinds, sizes, kept)
    stacks = Stacks(layers)
    rows = torch.tensor(importance, dtype=torch.float32)[torch.tensor(stacks.places)]
    found = [int(count) for count in KindShares(kinds, sizes, stacks).counts(rows, kept).tolist()]
    assert sum(found) == kept
    assert all(0 <= count <= size for count, size in zip(found, sizes, strict=True))
    # Sums in another order may move a share by a last digit, and with it one weight.
    assert max(abs(one - other) for one, other in zip(found, plain, strict=True)) <= 1
    assert sum(one != other for one, other in zip(found, plain, strict=True)) <= 2


def test_kinds_of_unlike_numbers_or_sizes_are_left_to_the_plain_rule() -> None:
    layers = blocks()
    sizes = [layer.size for layer in layers]
    stacks = Stacks(layers)
    assert not KindShares(["a"] * 5 + ["b"] * 13, sizes, stacks).uniform
    assert not KindShares(["a", "b"] * 9, [*sizes[:-1], 7], stacks).uniform


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_what_does_not_fit_goes_where_there_is_room(data: st.DataObject) -> None:
    capacity = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=8))
    counts = [data.draw(st.integers(0, 60)) for _ in capacity]
    while sum(counts) > sum(capacity):
        counts[int(np.argmax(counts))] -= 1
    wanted, most = (torch.tensor(numbers, dtype=torch.float64) for numbers in (counts, capacity))
    found = fit(wanted, most, sum(counts), torch.arange(len(counts), dtype=torch.float64))
    assert found.tolist() == _fit(counts, capacity)


@pytest.mark.parametrize("kept", [0, 1, 100, 1000, 3 * (4 * 64 + 2 * 192)])
def test_one_global_top_k_gives_each_layer_its_part(kept: int) -> None:
    def few_values(layers: list[MaskedLayer]) -> None:
        for layer in layers:
            layer.scores = nn.Parameter((layer.score() * 20).round() / 20)

    (pruner, plain), (again, stacked) = both(lambda: SMP(SMPSettings(init="magnitude")), few_values)
    scores = torch.cat([layer.score().reshape(-1) for layer in plain])
    highest = set(scores.sort(descending=True, stable=True).indices[:kept].tolist())
    ends = np.cumsum([0, *(layer.size for layer in plain)])
    by_hand = [sum(first <= i < last for i in highest) for first, last in itertools.pairwise(ends)]
    assert torch.as_tensor(global_counts(pruner, plain, kept)).tolist() == by_hand
    assert torch.as_tensor(global_counts(again, stacked, kept)).tolist() == by_hand


# -- masks -----------------------------------------------------------------------------------------------------------

METHODS: dict[str, Callable[[], Pruner]] = {
    "smp": lambda: SMP(SMPSettings(init="magnitude")),
    "smp-S without structure": lambda: SMP(SMPSettings(init="magnitude", structure=1.0)),
    "smp-L": lambda: SMP(SMPSettings(init="magnitude", allocation="L")),
    "smp-G": lambda: SMP(SMPSettings(init="magnitude", allocation="G", structure=1.0)),
    "smp from zero": lambda: SMP(SMPSettings(init="zero", structure=1.0)),
    "movement": lambda: Movement(Movement.Settings(init="magnitude")),
    "soft-movement": lambda: SoftMovement(SoftMovement.Settings(init="magnitude")),
    "magnitude": Magnitude,
    "gmp": GMP,
    "random": Random,
    "l0": lambda: L0(L0.Settings(init="magnitude")),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("density", [0.0, 0.03, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_masks_are_those_of_the_layers_bit_for_bit(method: str, density: float, ties: bool) -> None:
    def few_values(layers: list[MaskedLayer]) -> None:
        for layer in layers:
            if layer.scores is not None:
                layer.scores = nn.Parameter((layer.score() * 4).round() / 4)

    masks = []
    for pruner, layers in both(METHODS[method], few_values if ties else lambda layers: None):
        pruner.begin(layers, min(density, 0.1))
        ranked = refresh(pruner, layers, density)
        assert (ranked is None) == (stacks_of(layers) is None)
        masks.append([layer.mask.clone() for layer in layers])
        for layer in layers:
            assert torch.equal(layer.effective, layer.weight * layer.mask)
    assert sum(int(mask.sum()) for mask in masks[1]) == allocation.kept_weights(density, 3 * (4 * 64 + 2 * 192))
    for one, other in zip(*masks, strict=True):
        assert torch.equal(one, other)


def test_layers_of_sizes_that_no_structure_knows_are_stacked_too() -> None:
    shapes = [(3, 4), (4, 3), (2, 5), (3, 4)]

    def make() -> list[MaskedLayer]:
        torch.manual_seed(0)
        return [MaskedLayer(f"h.{i}.w{i % 2}", f"w{i % 2}", nn.Linear(b, a)) for i, (a, b) in enumerate(shapes)]

    masks = []
    for stacked in (False, True):
        pruner, layers = SMP(SMPSettings(init="magnitude", structure=1.0)), make()
        attach(pruner, layers, {})
        if stacked:
            stack_layers(layers)
        refresh(pruner, layers, 0.4)
        masks.append([layer.mask.clone() for layer in layers])
    for one, other in zip(*masks, strict=True):
        assert torch.equal(one, other)


class ByRow(Movement):
    """A plugin whose rule is about rows, so that it must be asked a layer at a time."""

    name, title = "by-row", "By row"

    def score(self, layer: MaskedLayer) -> Tensor:
        scores = layer.score()
        return scores - scores.mean(1, keepdim=True)

    def add_penalty_gradient(self, layer: MaskedLayer, gradient: Tensor, weight: float, layers: int) -> None:
        gradient += weight * layer.score().mean(0)


class Halved(SMP):
    """A plugin that has a last word on counts, as the list of whole numbers that it knows."""

    name, title = "halved", "Halved"

    def restrict(self, layers: Sequence[MaskedLayer], counts: list[int], density: float) -> list[int]:
        assert all(isinstance(count, int) for count in counts)
        moved = counts[0] // 2
        return [counts[0] - moved, counts[1] + moved, *counts[2:]]


def test_a_plugin_s_last_word_is_on_a_list() -> None:
    masks = []
    for pruner, layers in both(lambda: Halved(SMPSettings(init="magnitude"))):
        pruner.begin(layers, 0.1)
        refresh(pruner, layers, 0.1)
        masks.append([layer.mask.clone() for layer in layers])
    for one, other in zip(*masks, strict=True):
        assert torch.equal(one, other)


class FirstOfEach(Movement):
    """A plugin with a selection of its own: the first weights, whatever they score."""

    name, title = "first", "First"

    def select(self, layer: MaskedLayer, kept: int) -> Tensor:
        assert isinstance(kept, int)
        return torch.arange(layer.size).view(layer.weight.shape) < kept


class Checked(SMP):
    """A plugin whose selection is ours with a word of its own, so that its counts come from the device."""

    name, title = "checked", "Checked"

    def select(self, layer: MaskedLayer, kept: int) -> Tensor:
        assert isinstance(kept, int)
        return super().select(layer, kept)


@pytest.mark.parametrize("structure", [1.0, "auto"])
@pytest.mark.parametrize("density", [0.05, 0.1, 0.6])
def test_a_plugin_s_selection_goes_on_from_ours(structure: Any, density: float) -> None:
    masks = []
    for pruner, layers in both(lambda: Checked(SMPSettings(init="magnitude", structure=structure))):
        pruner.begin(layers, 0.05)
        refresh(pruner, layers, density)
        masks.append([layer.mask.clone() for layer in layers])
    for one, other in zip(*masks, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [ByRow, FirstOfEach])
@pytest.mark.parametrize("structure", [1.0, 0.5])
def test_a_hook_of_a_plugin_is_asked_a_layer_at_a_time(kind: type[Movement], structure: float) -> None:
    found = []
    for pruner, layers in both(lambda: kind(kind.Settings(init="magnitude", penalty=3.0, structure=structure))):
        pruner.begin(layers, 0.3)
        refresh(pruner, layers, 0.3)
        backward(layers)
        straight_through(pruner, layers, 3.0)
        found.append([(layer.mask.clone(), gradient_of(layer, "scores")) for layer in layers])
    for (mask, gradient), (other, others) in zip(*found, strict=True):
        assert torch.equal(mask, other)
        torch.testing.assert_close(gradient, others)


def test_a_nan_is_told_by_the_sum_and_asked_for_nothing() -> None:
    _, (pruner, layers) = both(lambda: SMP(SMPSettings(init="magnitude")))
    pruner.begin(layers, 0.1)
    ranked = refresh(pruner, layers, 0.1)
    assert ranked is not None and math.isfinite(ranked)
    with torch.no_grad():
        layers[4].score()[0, 0] = math.nan
    ranked = refresh(pruner, layers, 0.1)
    assert ranked is not None and math.isnan(ranked)


# -- gradients -------------------------------------------------------------------------------------------------------


def backward(layers: list[MaskedLayer]) -> None:
    """What a backward pass leaves: dL/dW' in each module, the same for the same layers."""
    draw = torch.Generator().manual_seed(3)
    for layer in layers:
        layer.effective.grad = torch.randn(layer.effective.shape, generator=draw).to(layer.effective.dtype)


def gradient_of(layer: MaskedLayer, part: str) -> Tensor:
    """The gradient of a layer's scores, row, column or weight, its own or its place in the stacks'."""
    stacks = stacks_of([layer])
    if stacks is None:
        found: Tensor = getattr(layer, part).grad
        return found
    parameter = next(one for one in [*stacks.parameters(), stacks.weight] if (layer, part) in stacks.inside(one))
    assert parameter.grad is not None
    first = 0
    for other, name in stacks.inside(parameter):
        shape = getattr(other, name).shape
        if other is layer and name == part:
            return parameter.grad[first : first + math.prod(shape)].view(shape)
        first += math.prod(shape)
    raise AssertionError(part)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "l0"])
def test_gradients_are_those_of_the_layers(method: str, dtype: torch.dtype) -> None:
    found = []
    for pruner, layers in both(METHODS[method]):
        for layer in layers:
            layer.narrows = True
        pruner.begin(layers, 0.2)
        refresh(pruner, layers, 0.2, dtype)
        assert {layer.effective.dtype for layer in layers} == {dtype}
        backward(layers)
        straight_through(pruner, layers, 40.0)
        assert all(layer.effective.grad is None for layer in layers)
        parts = [part for part in ("scores", "row", "column") if getattr(layers[0], part) is not None]
        parts += ["weight"] if pruner.trains_weights else []
        found.append({(layer.name, part): gradient_of(layer, part).clone() for layer in layers for part in parts})
    assert found[0].keys() == found[1].keys() and found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-6, msg=str(name))


def test_drawn_gates_and_their_slope_take_the_mask_s_place() -> None:
    _, (pruner, layers) = both(METHODS["l0"])
    pruner.begin(layers, 0.3)
    refresh(pruner, layers, 0.3)
    draw_gates(pruner, layers)
    stacks = stacks_of(layers)
    assert stacks is not None
    gates, slopes = (
        torch.cat([stack.gates[i].reshape(-1) for stack in stacks.stacks if stack.gates is not None]) for i in (0, 1)
    )
    assert 0 < float(gates.mean()) < 1
    torch.testing.assert_close(stacks.effective, stacks.weight.detach() * gates)
    backward(layers)
    before = torch.cat(
        [layer.effective.grad.reshape(-1) for layer in stacks.layers if layer.effective.grad is not None]
    )
    straight_through(pruner, layers, 0.0)
    assert stacks.scores is not None
    torch.testing.assert_close(stacks.scores.grad, before * stacks.weight.detach() * slopes)
    torch.testing.assert_close(stacks.weight.grad, before * gates)


def test_what_rows_and_columns_gained_is_added_to_their_scores() -> None:
    _, (_pruner, layers) = both(METHODS["smp"])
    started = [layer.score().clone() for layer in layers]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            assert layer.row is not None and layer.column is not None
            layer.row += number
            layer.column += torch.arange(layer.weight.shape[1])
    fold_factors(layers)
    for number, (layer, before) in enumerate(zip(layers, started, strict=True)):
        torch.testing.assert_close(layer.score(), before + number + torch.arange(layer.weight.shape[1]))
        assert layer.row is not None and layer.column is not None
        assert not layer.row.any() and not layer.column.any()


# -- memory ----------------------------------------------------------------------------------------------------------


def test_layers_see_the_memory_that_is_trained() -> None:
    _, (_pruner, layers) = both(METHODS["movement"])
    stacks = stacks_of(layers)
    assert stacks is not None
    assert score_parameters(layers) == [stacks.scores] and weight_parameters(layers) == [stacks.weight]
    assert [len(stack.layers) for stack in stacks.stacks] == [12, 6]
    with torch.no_grad():
        stacks.weight.mul_(2)
        assert stacks.scores is not None
        stacks.scores.add_(1)
    plain = blocks()
    for layer, before in zip(layers, plain, strict=True):
        assert torch.equal(layer.weight, 2 * before.weight)
    mask = torch.zeros_like(layers[5].mask)
    layers[5].set_mask(mask)
    assert not layers[5].effective.any()
    show_masks(layers)
    assert torch.equal(layers[0].effective, layers[0].weight * layers[0].mask)


def test_a_method_without_scores_trains_its_weights_alone() -> None:
    _, (_, layers) = both(Magnitude)
    assert score_parameters(layers) == []
    assert len(weight_parameters(layers)) == 1


def test_blocks_of_unlike_form_are_not_stacked_where_channels_matter() -> None:
    layers = blocks()
    pruner = SMP(SMPSettings(init="magnitude"))
    assert pruner.stacks(layers)
    narrow = MaskedLayer(layers[4].name, layers[4].kind, nn.Linear(8, 16), 4)
    behind = MaskedLayer(layers[5].name, layers[5].kind, nn.Linear(16, 8), 4)
    layers[4:6] = [narrow, behind]
    assert not pruner.stacks(layers)
    assert SMP(SMPSettings(structure=1.0)).stacks(layers)
    assert ScoredSettings().structure == 1.0 and Magnitude().stacks(layers)
