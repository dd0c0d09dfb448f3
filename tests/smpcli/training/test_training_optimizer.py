"""What is trained, at which rate, with which decay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from pruners.base import Pruner
from pruners.dense import Dense
from pruners.magnitude import Magnitude
from pruners.masking import attach
from pruners.masks.layer import MaskedLayer
from pruners.movement import Movement
from pruners.one_shot import MagnitudeOneShot
from pruners.smp import SMP, SMPSettings
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.layers import masked_layers
from smpcli.training.optimizer import make_optimizer, rate, set_rates, trained_weights

HEAD = ["classifier.weight", "classifier.bias"]


def assembled(
    pico: Any, pruner: Pruner, head: str = "prototype"
) -> tuple[TaskModel, list[MaskedLayer], list[nn.Parameter]]:
    backbone = AutoModelForSequenceClassification.from_pretrained(pico("bert"))
    model = TaskModel(backbone, head, set(HEAD))
    layers = masked_layers(backbone, backbone.config) if pruner.prunes else []
    attach(pruner, layers, {})
    return model, layers, trained_weights(pruner, model, layers)


def smp() -> SMP:
    return SMP(SMPSettings(init="zero"))


def names(model: TaskModel, weights: list[nn.Parameter]) -> set[str]:
    ids = {id(weight) for weight in weights}
    return {name for name, parameter in model.backbone.named_parameters() if id(parameter) in ids}


def test_smp_trains_no_weight_and_needs_the_masked_matrices_gradients_only(pico: Any) -> None:
    model, layers, weights = assembled(pico, smp())
    assert weights == []
    wanted = {name for name, parameter in model.backbone.named_parameters() if parameter.requires_grad}
    assert wanted == {f"{layer.name}.weight" for layer in layers}
    assert len(layers) == 12


def test_a_classifier_head_is_trained_even_where_weights_are_not(pico: Any) -> None:
    model, _, weights = assembled(pico, smp(), head="classifier")
    assert names(model, weights) == set(HEAD)
    assert all(weight.requires_grad for weight in weights)


@pytest.mark.parametrize("kind", [Movement, Magnitude])
def test_methods_that_train_weights_train_all_of_them_once(pico: Any, kind: type[Pruner]) -> None:
    settings = kind.Settings(init="zero") if kind is Movement else kind.Settings()
    model, layers, weights = assembled(pico, kind(settings))
    masked = {f"{layer.name}.weight" for layer in layers}
    every = {name for name, _ in model.backbone.named_parameters()}
    # In place of what the modules hold (W'), W itself.
    assert names(model, weights) == every - masked
    assert {id(layer.weight) for layer in layers} <= {id(weight) for weight in weights}
    assert sum(weight.numel() for weight in weights) == sum(p.numel() for p in model.parameters())
    assert len({id(weight) for weight in weights}) == len(weights) == len(every)


def test_dense_trains_the_model_s_own_parameters(pico: Any) -> None:
    model, layers, weights = assembled(pico, Dense())
    assert layers == []
    assert names(model, weights) == {name for name, _ in model.backbone.named_parameters()}


def settings_of(optimizer: torch.optim.Optimizer) -> dict[int, tuple[float, float]]:
    return {
        id(parameter): (group["peak"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_rates_and_decay(pico: Any) -> None:
    pruner = Movement(
        Movement.Settings(init="zero", weights_lr=3e-5, scores_lr=1e-2, weight_decay=0.07, factored=True)
    )
    model, layers, weights = assembled(pico, pruner)
    optimizer = make_optimizer(pruner, weights, layers)
    assert isinstance(optimizer, torch.optim.AdamW)
    found = settings_of(optimizer)
    scores = [part for layer in layers for part in layer.score_parameters()]
    assert len(scores) == 3 * 12
    assert len(found) == len(weights) + len(scores)
    for part in scores:
        assert found[id(part)] == (1e-2, 0.0)
    for layer in layers:
        assert found[id(layer.weight)] == (3e-5, 0.07)
    for name, parameter in model.backbone.named_parameters():
        if id(parameter) in found:
            flat = name.endswith("bias") or "LayerNorm" in name
            assert found[id(parameter)] == (3e-5, 0.0 if flat else 0.07), name


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        # From the peak in equal steps, the next of which would be 0.
        (0.0, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        # Four steps up, in fifths; then down over what is left.
        (0.4, [0.2, 0.4, 0.6, 0.8, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    ],
)
def test_rates_rise_over_the_warm_up_and_fall_to_0(pico: Any, warmup: float, expected: list[float]) -> None:
    pruner = Magnitude(Magnitude.Settings(weights_lr=0.5, warmup=warmup))
    _, layers, weights = assembled(pico, pruner)
    optimizer = make_optimizer(pruner, weights, layers)
    found = []
    for step in range(len(expected) + 1):
        set_rates(optimizer, rate(step, len(expected), pruner.settings.warmup))
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
        found.append(optimizer.param_groups[0]["lr"] / 0.5)
    assert found == pytest.approx([*expected, 0.0])


def test_rewinds_begin_the_fall_anew() -> None:
    # Two rewinds in nine steps: three falls of three.
    assert [rate(step, 9, 0.0, 2) for step in range(10)] == pytest.approx([1, 2 / 3, 1 / 3] * 3 + [0])
    # What is left behind a warm-up of two steps: two falls of four.
    found = [rate(step, 10, 0.2, 1) for step in range(10)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4, 1, 3 / 4, 2 / 4, 1 / 4])


def test_without_rewinds_rates_are_what_they_were_to_the_last_bit() -> None:
    for steps in (1, 3, 7, 400, 2106):
        for step in range(steps + 1):
            assert rate(step, steps, 0.0) == (steps - step) / steps


def test_a_run_that_trains_nothing_has_an_optimiser_of_nothing(pico: Any) -> None:
    pruner = MagnitudeOneShot()
    model, layers, weights = assembled(pico, pruner)
    optimizer = make_optimizer(pruner, weights, layers)
    assert settings_of(optimizer) == {} and not any(one.requires_grad for one in model.backbone.parameters())
    optimizer.step()
    _, layers, weights = assembled(pico, pruner, head="classifier")
    assert len(settings_of(make_optimizer(pruner, weights, layers))) == 2
