"""First scores, SMP's and soft movement's own rules, and the settings, against plain formulas."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from pruners.base import PrunerSettings, setting
from pruners.masking import attach, kept, refresh
from pruners.masks.layer import LayerStatistics, MaskedLayer
from pruners.movement import MovementSettings
from pruners.scored import ScoredPruner, ScoredSettings
from pruners.smp import SMP, SMPSettings
from pruners.soft_movement import SoftMovement, SoftMovementSettings

MakeLayers = Callable[..., list[MaskedLayer]]


def importance(layer: MaskedLayer, norms: list[float]) -> list[list[float]]:
    return [[abs(w) * x for w, x in zip(row, norms, strict=True)] for row in layer.weight.tolist()]


@pytest.mark.parametrize("init", ["magnitude", "activation"])
def test_first_scores_are_relative_importance(make_layers: MakeLayers, init: str) -> None:
    (layer,) = make_layers([(4, 3)])
    norms = [0.5, 2.0, 7.0]
    pruner = ScoredPruner(ScoredSettings(init=init, init_scale=0.5))  # type: ignore[arg-type]
    found = pruner.start(layer, LayerStatistics(torch.tensor(norms, dtype=torch.float64)))
    # S = c (I / mean(I) - 1), I = |W_ij|, times ||x_j|| for the activation form.
    i = importance(layer, norms if init == "activation" else [1.0] * 3)
    mean = sum(map(sum, i)) / 12
    expected = [[0.5 * (value / mean - 1) for value in row] for row in i]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert pruner.needs_statistics == (init == "activation")


def test_zero_start_and_its_first_mask_are_the_lowest_indices(make_layers: MakeLayers) -> None:
    (layer,) = make_layers([(3, 4)])
    pruner = SMP(SMPSettings(init="zero"))
    attach(pruner, [layer], {})
    assert not pruner.needs_statistics
    assert layer.score().abs().max() == 0
    refresh(pruner, [layer], 0.5)
    assert layer.mask.flatten().tolist() == [True] * 6 + [False] * 6


def test_the_start_leaves_the_weights_alone(make_layers: MakeLayers) -> None:
    (layer,) = make_layers([(4, 3)])
    before = layer.weight.clone()
    SMP().start(layer, LayerStatistics(torch.full((3,), 3.0, dtype=torch.float64)))
    assert torch.equal(layer.weight, before)


def test_an_activation_start_without_statistics_is_refused(make_layers: MakeLayers) -> None:
    (layer,) = make_layers([(4, 3)])
    with pytest.raises(ValueError, match=r"statistics of block\.0\.query"):
        SMP().start(layer, None)


# -- SMP -------------------------------------------------------------------------------------------------


def smp_layers(make_layers: MakeLayers, pruner: SMP) -> list[MaskedLayer]:
    """Two blocks of two kinds, the second block's scores higher."""
    layers = make_layers([(6, 5), (8, 6), (6, 5), (8, 6)], ["query", "up", "query", "up"])
    for index, layer in enumerate(layers):
        layer.learn_scores(torch.randn_like(layer.weight) + index // 2, factored=pruner.settings.factored)
    return layers


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_allocation_s_follows_eq_4(make_layers: MakeLayers, temperature: float) -> None:
    pruner = SMP(SMPSettings(allocation="S", temperature=temperature, factored=False))
    layers = smp_layers(make_layers, pruner)
    counts = [int(count) for count in pruner.allocate(layers, 39)]
    assert sum(counts) == 39
    for first, second in ((0, 2), (1, 3)):
        r = [
            sum(1 / (1 + math.exp(-s / temperature)) for s in layers[i].score().flatten().tolist())
            / layers[i].weight.numel()
            for i in (first, second)
        ]
        for index, share in ((first, r[0]), (second, r[1])):
            # v_l = v L r_l / sum(r), v = 39 / 156, L = 2
            density = 39 / 156 * 2 * share / sum(r)
            assert abs(counts[index] - density * layers[index].weight.numel()) < 1
    assert counts[2] > counts[0] and counts[3] > counts[1]


def test_allocation_l_is_the_same_everywhere(make_layers: MakeLayers) -> None:
    pruner = SMP(SMPSettings(allocation="L"))
    assert pruner.allocate(smp_layers(make_layers, pruner), 78) == [15, 24, 15, 24]


def test_allocation_g_keeps_the_highest_scores_of_all(make_layers: MakeLayers) -> None:
    pruner = SMP(SMPSettings(allocation="G", factored=False))
    layers = smp_layers(make_layers, pruner)
    refresh(pruner, layers, 0.25)
    assert kept(layers) == 39
    inside = torch.cat([layer.score()[layer.mask] for layer in layers])
    outside = torch.cat([layer.score()[~layer.mask] for layer in layers])
    assert inside.min() > outside.max()


# -- soft movement ---------------------------------------------------------------------------------------


def test_soft_movement_keeps_what_lies_above_one_threshold(make_layers: MakeLayers) -> None:
    pruner = SoftMovement(SoftMovementSettings(penalty=40))
    layers = make_layers([(6, 5), (8, 6), (6, 5)])
    for index, layer in enumerate(layers):
        layer.learn_scores(torch.randn_like(layer.weight) + index, factored=False)
    refresh(pruner, layers, 0.2)
    assert kept(layers) == 21
    tau = pruner.report(layers)["tau"]
    for layer in layers:
        # The paper's own rule, sigmoid(S) > tau; the lowest that is kept lies on the threshold.
        sigmoid = 1 / (1 + torch.exp(-layer.score()))
        assert torch.equal(layer.mask, sigmoid >= tau - 1e-12)
    assert pruner.report(layers)["lambda"] == 40


def test_soft_movement_reports_a_threshold_when_nothing_is_kept(make_layers: MakeLayers) -> None:
    pruner = SoftMovement(SoftMovementSettings(init="zero"))
    layers = make_layers([(2, 3)])
    attach(pruner, layers, {})
    refresh(pruner, layers, 0.0)
    assert pruner.report(layers)["tau"] == 1.0


# -- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ramp_end": 1.2}, "ramp_end must be at most 1"),
        ({"ramp_start": -0.1}, "ramp_start must be at least 0"),
        ({"weights_lr": math.nan}, "weights_lr must be at least 0"),
        ({"warmup": math.nan}, "warmup must be at least 0"),
        ({"ramp_start": 0.7}, r"ramp_start must be at most ramp_end \(0.6\), not 0.7"),
        ({"temperature": 0.0}, "temperature must be at least"),
        ({"penalty": -1.0}, "penalty must be at least 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMPSettings(**values)  # type: ignore[arg-type]


def test_the_defaults_that_the_documents_name() -> None:
    assert (ScoredSettings().init, ScoredSettings().factored) == ("zero", False)
    # A fair start for the baselines, too: movement from zero stays at chance in runs of minutes.
    for settings in (MovementSettings(), SoftMovementSettings()):
        assert (settings.init, settings.factored) == ("activation", False)
    smp = SMPSettings()
    assert (smp.init, smp.factored, smp.penalty, smp.allocation, smp.temperature) == (
        "activation",
        True,
        "auto",
        "S",
        1,
    )


def test_a_setting_needs_a_help_text() -> None:
    with pytest.raises(ValueError, match="help"):
        setting(1.0, "")
    assert [f.metadata["help"] for f in dataclasses.fields(PrunerSettings)]
