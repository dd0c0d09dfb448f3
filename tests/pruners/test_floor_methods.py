"""The floors: random masks, and masks that are chosen once, without training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruners.base import Pruner
from pruners.errors import ScoreError
from pruners.masking import attach, kept, refresh
from pruners.masks.layer import LayerStatistics, MaskedLayer
from pruners.masks.selection import top_k_of_rows
from pruners.masks.stack import stack_layers
from pruners.one_shot import MagnitudeOneShot, MagnitudeOneShotSettings
from pruners.random_masks import Random
from pruners.wanda import Wanda

MakeLayers = Callable[..., list[MaskedLayer]]
SHAPES = [(6, 4), (4, 6), (5, 5)]
TOTAL = 6 * 4 + 4 * 6 + 5 * 5


# -- random ----------------------------------------------------------------------------------------------------------


def random_masks(make_layers: MakeLayers, seed: int, stacked: bool, *densities: float) -> list[list[torch.Tensor]]:
    layers = make_layers(SHAPES, seed=3)
    torch.manual_seed(seed)
    # Whatever a run draws for a head or a teacher.
    torch.randn(seed + 5)
    pruner = Random()
    # As of several processes, each for its own dropout.
    torch.manual_seed(100 + stacked)
    attach(pruner, layers, {})
    if stacked:
        stack_layers(layers)
    pruner.begin(layers, densities[-1])
    found = []
    for density in densities:
        refresh(pruner, layers, density)
        found.append([layer.mask.clone() for layer in layers])
    return found


def test_random_masks_are_those_of_the_seed_s_uniform_scores(make_layers: MakeLayers) -> None:
    draw = np.random.default_rng([7, 2])
    scores = [draw.random(shape, np.float32).ravel().tolist() for shape in SHAPES]
    (found,) = random_masks(make_layers, 7, False, 0.25)
    # 73 weights in three matrices: 18 remain, a quarter of each.
    assert [int(mask.sum()) for mask in found] == [6, 6, 6]
    for mask, row in zip(found, scores, strict=True):
        chosen = sorted(range(len(row)), key=lambda i: -row[i])[:6]
        assert mask.flatten().nonzero().flatten().tolist() == sorted(chosen)


def test_random_masks_are_nested_and_the_same_wherever_they_are_drawn(make_layers: MakeLayers) -> None:
    wide, narrow = random_masks(make_layers, 1, False, 0.6, 0.2)
    assert all(not (one & ~other).any() for one, other in zip(narrow, wide, strict=True))
    for stacked in (False, True):
        # As of a run that goes on at its last density.
        (again,) = random_masks(make_layers, 1, stacked, 0.2)
        assert all(map(torch.equal, narrow, again))
    (other,) = random_masks(make_layers, 2, False, 0.2)
    assert not all(map(torch.equal, narrow, other))


# -- rows ------------------------------------------------------------------------------------------------------------


@given(st.data())
def test_rows_keep_as_many_each_and_the_rest_goes_to_the_highest(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    values = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
    scores = [[data.draw(values) for _ in range(columns)] for _ in range(rows)]
    k = data.draw(st.integers(0, rows * columns))
    orders = [sorted(range(columns), key=lambda j, row=row: (-row[j], j)) for row in scores]  # type: ignore[misc]
    expected = {(i, j) for i, order in enumerate(orders) for j in order[: k // rows]}
    following = [(scores[i][order[k // rows]], -i) for i, order in enumerate(orders)] if k % rows else []
    for _, i in sorted(following, reverse=True)[: k % rows]:
        expected.add((-i, orders[-i][k // rows]))
    found = top_k_of_rows(torch.tensor(scores), k)
    assert {(i, j) for i, j in found.nonzero().tolist()} == expected
    assert len(expected) == k


def test_rows_refuse_what_cannot_be_ranked() -> None:
    with pytest.raises(ScoreError, match="NaN"):
        top_k_of_rows(torch.tensor([[1.0, float("nan")]]), 1)
    with pytest.raises(ValueError, match=r"within \[0, 2\], not 3"):
        top_k_of_rows(torch.ones(1, 2), 3)


# -- one shot --------------------------------------------------------------------------------------------------------


def statistics(layers: list[MaskedLayer]) -> dict[str, LayerStatistics]:
    draw = torch.Generator().manual_seed(1)
    return {
        layer.name: LayerStatistics(torch.rand(layer.weight.shape[1], generator=draw, dtype=torch.float64))
        for layer in layers
    }


@pytest.mark.parametrize("stacked", [False, True])
def test_wanda_keeps_the_largest_products_of_each_output(make_layers: MakeLayers, stacked: bool) -> None:
    layers = make_layers(SHAPES)
    norms = {name: one.input_norm.tolist() for name, one in statistics(layers).items()}
    weights = {layer.name: layer.weight.tolist() for layer in layers}
    pruner = Wanda()
    attach(pruner, layers, statistics(layers))
    if stacked:
        stack_layers(layers)
    pruner.begin(layers, 0.5)
    refresh(pruner, layers, pruner.density(0.0, 0.5))
    assert kept(layers) == TOTAL // 2
    for layer in layers:
        out, inputs = layer.weight.shape
        count = int(layer.mask.sum())
        for i in range(out):
            row = [abs(w) * x for w, x in zip(weights[layer.name][i], norms[layer.name], strict=True)]
            order = sorted(range(inputs), key=lambda j, row=row: (-row[j], j))  # type: ignore[misc]
            mine = layer.mask[i].nonzero().flatten().tolist()
            assert len(mine) in (count // out, count // out + 1)
            assert mine == sorted(order[: len(mine)])


def test_wanda_needs_statistics(make_layers: MakeLayers) -> None:
    (layer,) = make_layers([(3, 3)])
    with pytest.raises(ValueError, match="wanda needs input statistics of block"):
        attach(Wanda(), [layer], {})


def test_magnitude_keeps_the_largest_of_each_matrix_or_of_all(make_layers: MakeLayers) -> None:
    everywhere = MagnitudeOneShotSettings(allocation="G")
    for settings, expected in ((MagnitudeOneShotSettings(), [6, 6, 6]), (everywhere, [18, 0, 0])):
        layers = make_layers(SHAPES)
        layers[0].weight.mul_(1000)
        pruner = MagnitudeOneShot(settings)
        pruner.begin(layers, 0.25)
        refresh(pruner, layers, 0.25)
        assert [int(layer.mask.sum()) for layer in layers] == expected
        lowest = layers[0].weight.abs()[layers[0].mask].min()
        assert (layers[0].weight.abs()[~layers[0].mask] <= lowest).all()


@pytest.mark.parametrize("make", [Wanda, MagnitudeOneShot])
def test_one_shot_is_final_at_once_and_chosen_once(
    make_layers: MakeLayers, make: type[Pruner], monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = make_layers(SHAPES)
    pruner = make()
    attach(pruner, layers, statistics(layers))
    assert not any(layer.effective.requires_grad or layer.scores is not None for layer in layers)
    pruner.begin(layers, 0.3)
    asked: list[MaskedLayer] = []
    score = pruner.score

    def watched(layer: MaskedLayer) -> torch.Tensor:
        asked.append(layer)
        return score(layer)

    monkeypatch.setattr(pruner, "score", watched)
    for step in range(4):
        assert pruner.density(step / 4, 0.3) == 0.3
        refresh(pruner, layers, 0.3)
    assert asked == layers and kept(layers) == int(0.3 * TOTAL)
