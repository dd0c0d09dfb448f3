"""L0 with hard-concrete gates, against the paper's formulas in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, linear

from pruners.l0 import L0, L0Settings, _offset
from pruners.magnitude import Magnitude
from pruners.masking import attach, draw_gates, kept, refresh, straight_through
from pruners.masks.layer import MaskedLayer

MakeLayers = Callable[..., list[MaskedLayer]]
BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def scored(make_layers: MakeLayers, pruner: L0) -> list[MaskedLayer]:
    layers = make_layers([(6, 5), (8, 6), (6, 5)])
    for index, layer in enumerate(layers):
        layer.learn_scores(2 * torch.randn_like(layer.weight) + index, factored=False)
        layer.learn_weight()
    return layers


def test_gates_are_drawn_by_the_formula(make_layers: MakeLayers) -> None:
    pruner = L0()
    layers = scored(make_layers, pruner)
    refresh(pruner, layers, 0.4)
    state = torch.get_rng_state()
    gates, slope = pruner.gates(layers[0])
    torch.set_rng_state(state)
    draws = torch.rand_like(layers[0].weight).flatten().tolist()
    inside = 0
    for u, score, z, dz in zip(
        draws, layers[0].score().flatten().tolist(), gates.flatten().tolist(), slope.flatten().tolist(), strict=True
    ):
        # eq. 10: s = sigmoid((log u - log(1 - u) + log alpha) / beta); eq. 11: stretched, then clamped.
        log_alpha = score - pruner.tau
        s = sigmoid((math.log(u) - math.log(1 - u) + log_alpha) / BETA)
        stretched = s * (ZETA - GAMMA) + GAMMA
        assert z == pytest.approx(min(1.0, max(0.0, stretched)), abs=1e-12)
        if 0 < stretched < 1:
            inside += 1
            assert dz == pytest.approx((ZETA - GAMMA) * s * (1 - s) / BETA, abs=1e-12)
        else:
            assert dz == 0
    assert 0 < inside < len(draws)


@pytest.mark.parametrize(("parts", "rounds"), [(2, 60), (64, 10)])
@given(scores=st.lists(st.floats(-8, 8), min_size=2, max_size=40), density=st.floats(0.01, 0.99))
def test_tau_is_where_the_expected_number_of_gates_is_the_wanted_one(
    scores: list[float], density: float, parts: int, rounds: int
) -> None:
    tau = float(_offset([torch.tensor(scores, dtype=torch.float64)], density, parts, rounds))
    # eq. 12: P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta))
    expected = sum(sigmoid(score - tau - BETA * math.log(-GAMMA / ZETA)) for score in scores) / len(scores)
    assert expected == pytest.approx(density, abs=1e-6)


def test_that_many_gates_are_open_when_they_are_drawn(make_layers: MakeLayers) -> None:
    pruner = L0()
    layers = scored(make_layers, pruner)
    refresh(pruner, layers, 0.3)
    torch.manual_seed(0)
    share = [float((pruner.gates(layer)[0] > 0).double().mean()) * layer.weight.numel() for layer in layers * 300]
    assert sum(share) / 300 / 108 == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(("density", "gate"), [(1.0, 1.0), (0.0, 0.0)])
def test_at_either_end_every_gate_is_open_or_none(make_layers: MakeLayers, density: float, gate: float) -> None:
    pruner = L0(L0Settings(init="zero"))
    layers = make_layers([(4, 5)])
    attach(pruner, layers, {})
    refresh(pruner, layers, density)
    assert (pruner.gates(layers[0])[0] == gate).all()


def test_the_mask_is_the_global_top_k(make_layers: MakeLayers) -> None:
    pruner = L0()
    layers = scored(make_layers, pruner)
    refresh(pruner, layers, 0.25)
    assert kept(layers) == 27
    inside = torch.cat([layer.score()[layer.mask] for layer in layers])
    outside = torch.cat([layer.score()[~layer.mask] for layer in layers])
    assert inside.min() > outside.max()
    assert pruner.report(layers) == {"tau": pruner.tau, "lambda": 125.0}


def test_the_penalty_in_closed_form_equals_autograd_through_the_expected_l0_norm(make_layers: MakeLayers) -> None:
    pruner = L0()
    layers = scored(make_layers, pruner)
    refresh(pruner, layers, 0.3)
    leaves = [layer.score().clone().requires_grad_() for layer in layers]
    shift = BETA * math.log(-GAMMA / ZETA)
    (90 * torch.stack([torch.sigmoid(leaf - pruner.tau - shift).mean() for leaf in leaves]).sum() / 3).backward()
    for layer, leaf in zip(layers, leaves, strict=True):
        gradient = torch.full_like(layer.weight, 0.25)
        pruner.add_penalty_gradient(layer, gradient, 90, 3)
        torch.testing.assert_close(gradient.detach() - 0.25, leaf.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("penalty", [0.0, 125.0])
def test_gradients_equal_those_of_autograd_through_the_gates(penalty: float) -> None:
    torch.manual_seed(2)
    module = nn.Linear(7, 4, dtype=torch.float64)
    x, labels = torch.randn(9, 7, dtype=torch.float64), torch.randint(4, (9,))
    pruner = L0(L0Settings(init="magnitude", init_scale=2.0))
    layers = [MaskedLayer("one", "one", module)]
    attach(pruner, layers, {})
    refresh(pruner, layers, 0.6)
    state = torch.get_rng_state()
    draw_gates(pruner, layers)
    cross_entropy(module(x), labels).backward()
    straight_through(pruner, layers, penalty)

    torch.set_rng_state(state)
    w = layers[0].weight.detach().clone().requires_grad_()
    s = layers[0].score().clone().requires_grad_()
    log_alpha = s - pruner.tau
    concrete = torch.sigmoid((torch.logit(torch.rand_like(w)) + log_alpha) / BETA)
    z = (concrete * (ZETA - GAMMA) + GAMMA).clamp(0, 1)
    loss = cross_entropy(linear(x, w * z, module.bias.detach()), labels)
    loss = loss + penalty * torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA)).mean()
    loss.backward()
    assert layers[0].scores is not None
    torch.testing.assert_close(layers[0].scores.grad, s.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(layers[0].weight.grad, w.grad, rtol=1e-9, atol=1e-12)
    assert s.grad is not None and s.grad.abs().max() > 0
    # Where a gate was drawn closed the weight had no part, and where it was in between, its part only.
    closed = z.detach() == 0
    assert layers[0].weight.grad is not None
    assert closed.any() and (layers[0].weight.grad[closed] == 0).all()


def test_gates_leave_the_module_when_the_mask_is_set(make_layers: MakeLayers) -> None:
    pruner = L0()
    layers = scored(make_layers, pruner)
    refresh(pruner, layers, 0.5)
    draw_gates(pruner, layers)
    for layer in layers:
        assert layer.gates is not None
        assert torch.equal(layer.effective.detach(), layer.weight.detach() * layer.gates[0])
        layer.set_mask(layer.mask)
        assert torch.equal(layer.effective.detach(), layer.weight.detach() * layer.mask)


def test_other_methods_draw_nothing(make_layers: MakeLayers) -> None:
    layers = make_layers([(4, 5)])
    pruner = Magnitude()
    attach(pruner, layers, {})
    refresh(pruner, layers, 0.5)
    before = layers[0].effective.detach().clone()
    draw_gates(pruner, layers)
    assert layers[0].gates is None and torch.equal(layers[0].effective, before)
