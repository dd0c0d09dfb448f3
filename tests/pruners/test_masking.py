"""The straight-through gradients against plain autograd, and one mask refresh."""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import current_thread, main_thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from pruners.base import Pruner
from pruners.magnitude import Magnitude
from pruners.masking import attach, fold_factors, kept, refresh, straight_through
from pruners.masks import layer as masked_layer
from pruners.masks.layer import MaskedLayer
from pruners.masks.selection import apply_mask
from pruners.movement import Movement
from pruners.scored import ScoredPruner, ScoredSettings
from pruners.smp import SMP, SMPSettings

MakeLayers = Callable[..., list[MaskedLayer]]


class PassedOn(torch.autograd.Function):
    """M forward, and backward as if the scores themselves had been there."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, mask: Tensor) -> Tensor:
        return mask.to(score)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class TwoLayers(nn.Module):
    """A tiny network with a bias, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(7, 5, dtype=torch.float64)
        self.second = nn.Linear(5, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(torch.tanh(self.first(x)))
        return hidden


CASES = {
    "frozen weights": (ScoredPruner, ScoredSettings(factored=False, init="magnitude")),
    "frozen weights, factored": (SMP, SMPSettings(factored=True, init="magnitude")),
    "trained weights": (Movement, ScoredSettings(init="magnitude")),
    "trained weights, factored": (Movement, ScoredSettings(init="magnitude", factored=True)),
    "trained weights without scores": (Magnitude, Magnitude.Settings()),
}


@pytest.mark.parametrize("penalty", [0.0, 400.0])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_autograd_through_the_mask(case: str, penalty: float) -> None:
    kind, settings = CASES[case]
    torch.manual_seed(5)
    network = TwoLayers()
    x, labels = torch.randn(11, 7, dtype=torch.float64), torch.randint(3, (11,))
    pruner = kind(settings)
    if not pruner.trains_scores:
        penalty = 0.0
    layers = [MaskedLayer("first", "first", network.first), MaskedLayer("second", "second", network.second)]
    attach(pruner, layers, {})
    with torch.no_grad():
        for parameter in (parameter for layer in layers for parameter in layer.score_parameters()):
            parameter.add_(torch.randn_like(parameter))
    fold_factors(layers)
    refresh(pruner, layers, 0.4)
    assert kept(layers) == 20

    cross_entropy(network(x), labels).backward()
    straight_through(pruner, layers, penalty)

    # The same network once more, with everything in one graph: y = x (W M(S + r + c))^T + b, loss + lambda R.
    copies = [
        {
            part: getattr(layer, part).detach().clone().requires_grad_(isinstance(getattr(layer, part), nn.Parameter))
            for part in ("weight", "scores", "row", "column")
            if getattr(layer, part) is not None
        }
        for layer in layers
    ]
    outputs, regularisers = [x], []
    for layer, copy, module in zip(layers, copies, (network.first, network.second), strict=True):
        masked = copy["weight"] * layer.mask
        if "scores" in copy:
            total = sum((copy[part] for part in ("row", "column") if part in copy), copy["scores"])
            regularisers.append(torch.sigmoid(total).mean())
            masked = copy["weight"] * PassedOn.apply(total, layer.mask)  # type: ignore[no-untyped-call]
        outputs.append(linear(outputs[-1], masked, module.bias.detach()))
        if layer.name == "first":
            outputs.append(torch.tanh(outputs[-1]))
    loss = cross_entropy(outputs[-1], labels)
    if regularisers:
        loss = loss + penalty * torch.stack(regularisers).mean()
    loss.backward()

    compared = 0
    for layer, copy in zip(layers, copies, strict=True):
        for part, plain in copy.items():
            if plain.requires_grad:
                assert plain.grad is not None and plain.grad.abs().max() > 0
                torch.testing.assert_close(getattr(layer, part).grad, plain.grad, rtol=1e-10, atol=1e-13)
                compared += 1
        # What backward() left in the module is used up: it would add to the next step's.
        assert layer.effective.grad is None
    trained = pruner.trains_weights + pruner.trains_scores * (3 if getattr(settings, "factored", False) else 1)
    assert compared == 2 * trained


def test_the_penalty_in_closed_form_equals_autograd_through_r(make_layers: MakeLayers) -> None:
    layers = make_layers([(4, 3), (2, 9), (5, 5)])
    pruner = SMP(SMPSettings(factored=False))
    for layer in layers:
        layer.learn_scores(3 * torch.randn_like(layer.weight), factored=False)
    leaves = [layer.score().requires_grad_() for layer in layers]
    # R: the mean over matrices of each one's mean sigmoid, so a small matrix weighs as much as a large one.
    (250 * torch.stack([torch.sigmoid(leaf).mean() for leaf in leaves]).sum() / 3).backward()
    for layer, leaf in zip(layers, leaves, strict=True):
        gradient = torch.full_like(layer.weight, 0.5)
        pruner.add_penalty_gradient(layer, gradient, 250, len(layers))
        torch.testing.assert_close(gradient - 0.5, leaf.grad, rtol=1e-12, atol=1e-15)


def test_the_module_holds_w_times_m_and_w_is_kept(make_layers: MakeLayers) -> None:
    (layer,) = make_layers([(2, 2)])
    w = layer.weight.clone()
    assert torch.equal(layer.effective, w)
    layer.set_mask(torch.tensor([[True, False], [False, True]]))
    assert layer.effective.tolist() == [[w[0, 0].item(), 0.0], [0.0, w[1, 1].item()]]
    # A weight comes back with its old value.
    layer.set_mask(torch.tensor([[True, True], [False, False]]))
    assert layer.effective.tolist() == [[w[0, 0].item(), w[0, 1].item()], [0.0, 0.0]]
    assert torch.equal(layer.weight, w)
    assert layer.effective is layer.module.weight


def test_what_is_ranked_is_s_plus_row_plus_column(make_layers: MakeLayers) -> None:
    (layer,) = make_layers([(2, 3)])
    layer.learn_scores(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), factored=True)
    assert [tuple(part.shape) for part in layer.score_parameters()] == [(2, 3), (2, 1), (1, 3)]
    assert layer.score().tolist() == [[1, 2, 3], [4, 5, 6]]
    for _ in range(2):
        with torch.no_grad():
            # What an optimiser's step would add.
            layer.score_parameters()[1].add_(torch.tensor([[10.0], [20.0]]))
            layer.score_parameters()[2].add_(torch.tensor([[0.5, 0.25, 0.0]]))
        fold_factors([layer])
    assert layer.score().tolist() == [[22, 22.5, 23], [45, 45.5, 46]]
    assert not layer.score().requires_grad


def test_folding_leaves_layers_without_factors_alone(make_layers: MakeLayers) -> None:
    plain, bare = make_layers([(2, 3), (2, 3)])
    plain.learn_scores(torch.ones(2, 3), factored=False)
    fold_factors([plain, bare])
    assert plain.score().tolist() == [[1, 1, 1], [1, 1, 1]]
    assert bare.scores is None


def test_factored_scores_move_as_s_r_and_c_would_apart(make_layers: MakeLayers) -> None:
    """Folding is bookkeeping: AdamW's steps are those of three parameters whose sum is ranked."""
    (layer,) = make_layers([(3, 4)])
    layer.learn_scores(torch.randn(3, 4), factored=True)
    s, r, c = (part.detach().clone().requires_grad_() for part in layer.score_parameters())
    ours = torch.optim.AdamW(layer.score_parameters(), lr=0.05, weight_decay=0.0)
    apart = torch.optim.AdamW([s, r, c], lr=0.05, weight_decay=0.0)
    pruner = SMP()
    for _ in range(20):
        upstream = torch.randn(3, 4, dtype=torch.float64)
        layer.effective.grad = upstream.clone()
        straight_through(pruner, [layer], 50.0)
        ours.step()
        fold_factors([layer])
        score = s + r + c
        apart.zero_grad()
        (score * upstream * layer.weight + 50 * torch.sigmoid(score) / 12).sum().backward()
        apart.step()
        torch.testing.assert_close(layer.score(), (s + r + c).detach(), rtol=0, atol=1e-12)


def test_a_layer_without_scores_has_none_to_rank(make_layers: MakeLayers) -> None:
    (layer,) = make_layers([(2, 3)])
    with pytest.raises(ValueError, match="no scores"):
        layer.score()
    assert layer.score_parameters() == []


@pytest.mark.parametrize("density", [0.0, 0.03, 0.1, 1 / 3, 0.5, 0.999, 1.0])
def test_a_refresh_keeps_exactly_the_density(make_layers: MakeLayers, density: float) -> None:
    layers = make_layers([(8, 5), (3, 7), (10, 10)])
    refresh(Magnitude(), layers, density)
    assert kept(layers) == math.floor(density * 161)
    for layer in layers:
        assert int((layer.effective != 0).sum()) == int(layer.mask.sum())


def test_a_refresh_asks_the_method_for_amounts_and_masks(make_layers: MakeLayers) -> None:
    class LastRows(Pruner):
        name = "last-rows"

        def allocate(self, layers: Any, kept: int) -> list[int]:
            return [0, kept]

        def select(self, layer: MaskedLayer, kept: int) -> Tensor:
            mask = torch.zeros(layer.weight.numel(), dtype=torch.bool)
            mask[layer.weight.numel() - kept :] = True
            return mask.view_as(layer.weight)

    layers = make_layers([(2, 2), (2, 4)])
    refresh(LastRows(), layers, 0.25)
    assert [layer.mask.flatten().tolist() for layer in layers] == [[False] * 4, [False] * 5 + [True] * 3]


def test_threads_that_choose_masks_use_no_threads_of_torch(
    make_layers: MakeLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two levels of threads fight for the cores: a step took half as long again.
    seen = []

    def watched(*given: Any, **named: Any) -> None:
        seen.append((current_thread() is main_thread(), torch.get_num_threads()))
        apply_mask(*given, **named)

    monkeypatch.setattr(masked_layer, "apply_mask", watched)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        refresh(Magnitude(), make_layers([(8, 5)] * 4), 0.5)
        assert seen == [(False, 1)] * 4
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_refresh_refuses_amounts_for_fewer_layers(make_layers: MakeLayers) -> None:
    class Forgetful(Pruner):
        def allocate(self, layers: Any, kept: int) -> list[int]:
            return [kept]

    with pytest.raises(ValueError, match="shorter"):
        refresh(Forgetful(), make_layers([(2, 2), (2, 2)]), 0.5)


def test_magnitude_keeps_the_largest_of_each_matrix(make_layers: MakeLayers) -> None:
    layers = make_layers([(4, 6), (3, 8)])
    refresh(Magnitude(), layers, 0.25)
    for layer in layers:
        assert int(layer.mask.sum()) == 6
        assert layer.weight[layer.mask].abs().min() > layer.weight[~layer.mask].abs().max()


def test_attach_gives_what_the_method_trains(make_layers: MakeLayers) -> None:
    for pruner, scores, weight in (
        (SMP(SMPSettings(init="zero")), True, False),
        (Movement(Movement.Settings(init="zero")), True, True),
    ):
        (layer,) = make_layers([(2, 3)])
        attach(pruner, [layer], {})
        assert isinstance(layer.scores, nn.Parameter) == scores
        assert isinstance(layer.weight, nn.Parameter) == weight
        assert layer.effective.requires_grad
    (layer,) = make_layers([(2, 3)])
    attach(Magnitude(), [layer], {})
    assert layer.scores is None and isinstance(layer.weight, nn.Parameter)


def test_a_method_that_trains_scores_must_say_where_they_start(make_layers: MakeLayers) -> None:
    class Startless(Pruner):
        name = "startless"
        trains_scores = True

    with pytest.raises(ValueError, match="startless trains scores"):
        attach(Startless(), make_layers([(2, 3)]), {})
