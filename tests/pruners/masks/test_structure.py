"""A limit on channels: exact counts, weights in the best channels only, and the choice of a slow reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pruners.base import Pruner
from pruners.errors import PrunerError
from pruners.masking import refresh, straight_through
from pruners.masks.layer import MaskedLayer
from pruners.masks.structure import Channels, _threshold, find_channels
from pruners.masks.trial import confirm_narrow
from pruners.methods import METHODS
from smpcli import UserError
from smpcli.modeling.layers import masked_layers
from smpcli.settings import resolve

MakeLayers = Callable[..., list[MaskedLayer]]
KINDS = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
SHAPES = [(8, 8)] * 4 + [(12, 8), (8, 12)]
HEADS, SIZE = 4, 2
CHANNELS = 2 * (8 + 8 + 12)
BERT_LIKE = ["bert", "roberta", "distilbert", "electra", "mpnet"]
# MPNet has a bias for each head, DeBERTa reshapes to all of its heads: they compute with every one of them.
COUNTING = {"mpnet", "deberta-v3"}
# Which axis of a matrix is the channel.
AXIS = {"attention.output.dense": 1, "output.dense": 1}


@pytest.fixture
def blocks(make_layers: MakeLayers) -> list[MaskedLayer]:
    """Two blocks of six matrices with random scores."""
    layers = []
    for block in range(2):
        made = make_layers(SHAPES, KINDS, seed=block)
        layers += [MaskedLayer(f"layer.{block}.{layer.kind}", layer.kind, layer.module, HEADS) for layer in made]
    draw = torch.Generator().manual_seed(5)
    for layer in layers:
        layer.learn_scores(torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64), factored=False)
    return layers


def alive(layers: list[MaskedLayer]) -> list[Tensor]:
    """For each pair of matrices that share channels, which hold a weight in either."""
    found = []
    for index in range(0, len(layers), 2):
        rows = [layer.mask.any(1 - AXIS.get(layer.kind, 0)) for layer in layers[index : index + 2]]
        found.append(rows[0] | rows[1])
    return found


@pytest.mark.parametrize("method", ["smp", "movement", "soft-movement"])
@pytest.mark.parametrize("structure", [0.1, 0.25, 0.5, 1.0])
def test_no_more_channels_than_asked_for_hold_the_same_number_of_weights(
    blocks: list[MaskedLayer], method: str, structure: float
) -> None:
    pruner: Any = METHODS.load(method)
    made = pruner(pruner.Settings(structure=structure))
    made.begin(blocks, 0.05)
    density = made.density(1.0, 0.05)
    refresh(made, blocks, density)
    total = sum(layer.weight.numel() for layer in blocks)
    assert sum(int(layer.mask.sum()) for layer in blocks) == int(0.05 * total)
    assert sum(int(part.sum()) for part in alive(blocks)) <= structure * CHANNELS


def excess(scores: list[list[float]], kept: int, axis: int) -> list[float]:
    """Row or column sums of what the `kept` highest scores exceed the lowest of them by, written plainly."""
    threshold = sorted(itertools.chain(*scores), reverse=True)[kept - 1]
    lines = scores if axis == 0 else list(zip(*scores, strict=True))
    return [sum(score - threshold for score in line if score > threshold) for line in lines]


def test_the_channels_are_those_that_would_be_missed_most(blocks: list[MaskedLayer]) -> None:
    counts = [9, 5, 7, 6, 11, 10] * 2
    scores = [layer.score() for layer in blocks]
    channels = Channels(blocks)
    left = channels.restrict(blocks, scores, counts, 0.4)
    missed = [excess(scores[i].tolist(), counts[i], AXIS.get(blocks[i].kind, 0)) for i in range(12)]
    # (value a channel, cost, matrices, rows or columns) of each head and neuron.
    units = []
    for block in (0, 6):
        for head in range(HEADS):
            part = range(head * SIZE, (head + 1) * SIZE)
            value = sum(missed[block + matrix][place] for matrix in range(4) for place in part) / (2 * SIZE)
            units.append((value, 2 * SIZE, range(block, block + 4), part))
        for place in range(12):
            units.append(
                (
                    missed[block + 4][place] + missed[block + 5][place],
                    1,
                    range(block + 4, block + 6),
                    range(place, place + 1),
                )
            )
    budget, best = int(0.4 * CHANNELS), set()
    for _, cost, matrices, places in sorted(units, key=lambda unit: -unit[0]):
        if cost <= budget:
            budget -= cost
            best |= {(matrix, place) for matrix in matrices for place in places}
    assert sum(left) == sum(counts)
    for index, layer in enumerate(blocks):
        chosen, axis = channels.chosen[layer.name]
        assert axis == AXIS.get(layer.kind, 0)
        assert {(index, place) for place in chosen.tolist()} == {key for key in best if key[0] == index}
        mask = channels.select(layer, scores[index], left[index])
        inside = [
            (score, row, column)
            for row, line in enumerate(scores[index].tolist())
            for column, score in enumerate(line)
            if (row if axis == 0 else column) in chosen.tolist()
        ]
        kept = {(row, column) for _, row, column in sorted(inside, reverse=True)[: left[index]]}
        assert {(row, column) for row, column in mask.nonzero().tolist()} == kept


def test_the_fraction_falls_with_the_density(blocks: list[MaskedLayer]) -> None:
    """Halfway between dense and final, the limit is halfway between all channels and `structure`."""
    pruner: Any = METHODS.load("smp")
    made = pruner(pruner.Settings(structure=0.2, schedule="linear", ramp_end=1.0))
    made.begin(blocks, 0.1)
    density = made.density(0.5, 0.1)
    assert density == pytest.approx(0.55)
    refresh(made, blocks, density)
    assert 0.6 * CHANNELS - 2 * SIZE < sum(int(part.sum()) for part in alive(blocks)) <= 0.6 * CHANNELS


@pytest.mark.parametrize("density", [0.04, 0.25, 0.49])
def test_auto_is_the_root_of_the_density(blocks: list[MaskedLayer], density: float) -> None:
    pruner: Any = METHODS.load("smp")
    made = pruner()
    assert made.settings.structure == "auto"
    made.begin(blocks, density)
    refresh(made, blocks, made.density(1.0, density))
    left = sum(int(part.sum()) for part in alive(blocks))
    assert density**0.5 * CHANNELS - 2 * SIZE < left <= density**0.5 * CHANNELS
    assert sum(int(layer.mask.sum()) for layer in blocks) == int(density * sum(s.mask.numel() for s in blocks))


def test_auto_limits_nothing_in_blocks_of_another_form(make_layers: MakeLayers) -> None:
    layers = make_layers([(4, 4), (8, 4), (4, 8)], ["self_attn.qkv", "mlp.up", "mlp.down"])
    pruner: Any = METHODS.load("smp")
    masks = []
    for structure in ("auto", 1.0):
        for layer in layers:
            layer.learn_scores(layer.weight.abs(), factored=False)
        made = pruner(pruner.Settings(structure=structure))
        made.begin(layers, 0.25)
        refresh(made, layers, made.density(1.0, 0.25))
        masks.append([layer.mask for layer in layers])
    assert all(torch.equal(one, other) for one, other in zip(*masks, strict=True))


def test_the_threshold_of_a_large_matrix_is_that_of_every_61st_score() -> None:
    scores = torch.randn(70_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sample = sorted(scores.tolist()[::61], reverse=True)
    assert _threshold(scores, 7_000) == sample[round(7_000 / 61) - 1]
    assert _threshold(scores, 1) == sample[0]
    assert _threshold(scores[:1000], 10) == sorted(scores[:1000].tolist(), reverse=True)[9]


def test_full_channels_hand_their_surplus_on(blocks: list[MaskedLayer]) -> None:
    """Where the weights just fit, every weight of the chosen channels stays."""
    pruner: Any = METHODS.load("smp")
    made = pruner(pruner.Settings(structure=0.25))
    made.begin(blocks, 0.25)
    refresh(made, blocks, made.density(1.0, 0.25))
    assert sum(int(part.sum()) for part in alive(blocks)) == CHANNELS // 4
    for layer, part in zip(blocks, [part for part in alive(blocks) for _ in range(2)], strict=True):
        assert int(layer.mask.sum()) == int(part.sum()) * 8


def test_a_limit_without_room_is_refused_before_anything_is_loaded() -> None:
    pruner: Any = METHODS.load("smp")
    with pytest.raises(PrunerError, match="no room for 50%"):
        pruner(pruner.Settings(structure=0.25)).begin([], 0.5)
    with pytest.raises(UserError, match=r"structure=0\.25 has no room"):
        resolve(flags={"task": "sst2", "sparsity": 0.5, "structure": 0.25})


def test_blocks_of_another_form_are_refused(make_layers: MakeLayers) -> None:
    with pytest.raises(PrunerError, match="structure needs blocks"):
        find_channels(make_layers([(4, 4), (8, 4), (4, 8)], ["self_attn.qkv", "mlp.up", "mlp.down"]))


@pytest.mark.parametrize("name", BERT_LIKE)
def test_every_bert_like_architecture_has_three_pairs_a_block(pico: Any, name: str) -> None:
    import transformers as hf

    model = hf.AutoModel.from_pretrained(pico(name))
    layers = masked_layers(model, model.config)
    assert {layer.heads for layer in layers} == {2}
    pairs = find_channels(layers)
    assert len(pairs) == model.config.num_hidden_layers
    last = {
        (layers[pair.first].kind.split(".")[-1], layers[pair.second].kind.split(".")[-1])
        for block in pairs
        for pair in block
    }
    names = {
        "distilbert": {("q_lin", "k_lin"), ("v_lin", "out_lin"), ("lin1", "lin2")},
        "mpnet": {("q", "k"), ("v", "o"), ("dense", "dense")},
    }
    assert last == names.get(name, {("query", "key"), ("value", "dense"), ("dense", "dense")})


def test_a_channel_that_fell_can_come_back(blocks: list[MaskedLayer]) -> None:
    pruner: Any = METHODS.load("smp")
    made = pruner(pruner.Settings(structure=0.2))
    made.begin(blocks, 0.05)
    refresh(made, blocks, 0.05)
    fallen = int((~alive(blocks)[2]).nonzero()[0])
    assert blocks[4].scores is not None
    blocks[4].scores.data[fallen] += 100
    refresh(made, blocks, 0.05)
    assert alive(blocks)[2][fallen]


def test_heads_fall_whole(blocks: list[MaskedLayer]) -> None:
    pruner: Any = METHODS.load("smp")
    made = pruner(pruner.Settings(structure=0.3))
    made.begin(blocks, 0.2)
    refresh(made, blocks, made.density(1.0, 0.2))
    assert made.channels is not None
    for block in (0, 6):
        chosen = [
            torch.zeros(HEADS * SIZE, dtype=torch.bool).index_fill_(0, made.channels.chosen[layer.name][0], True)
            for layer in blocks[block : block + 4]
        ]
        heads = chosen[0].view(HEADS, SIZE)
        assert (heads.all(1) | ~heads.any(1)).all()
        assert all(torch.equal(chosen[0], other) for other in chosen)


def test_nothing_changes_without_a_limit(blocks: list[MaskedLayer]) -> None:
    pruner: Any = METHODS.load("movement")
    made = pruner(pruner.Settings())
    assert made.restrict(blocks, [3] * 12, 0.5) == [3] * 12
    assert made.channels is None


# -- training computes with the living channels only -----------------------------------------------------


def pico_layers(folder: str) -> tuple[Any, list[MaskedLayer]]:
    """A pico model in double precision, its matrices with random scores: in the first block every head falls."""
    import transformers as hf

    model = hf.AutoModel.from_pretrained(folder).double().eval().requires_grad_(False)
    layers = masked_layers(model, model.config)
    draw = torch.Generator().manual_seed(3)
    for layer in layers:
        layer.effective.requires_grad_(True)
        start = torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            layer.module.bias.normal_(generator=draw)  # type: ignore[operator]
        layer.learn_scores(start, factored=True)
    for pair in find_channels(layers)[0][:2]:
        for index in (pair.first, pair.second):
            layers[index].scores.data -= 9  # type: ignore[union-attr]
    confirm_narrow(layers, lambda: output_of(model).detach())
    return model, layers


def output_of(model: Any) -> Tensor:
    """(batch, length, hidden) of two texts, one of them padded."""
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
    return model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state  # type: ignore[no-any-return]


def step(
    model: Any, layers: list[MaskedLayer], pruner: Any, narrow: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """One step at a density of 0.2: outputs (batch, length, hidden), dL/dW' as autograd left it, dL/dS."""
    pruner.begin(layers, 0.2)
    refresh(pruner, layers, pruner.density(1.0, 0.2), narrow=narrow)
    output = output_of(model)
    output[:, 0].pow(2).sum().backward()
    upstream = [layer.effective.grad.clone() for layer in layers]  # type: ignore[union-attr]
    straight_through(pruner, layers, 0.0)
    return output.detach(), upstream, [layer.scores.grad.clone() for layer in layers]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [*BERT_LIKE, "deberta-v3"])
def test_a_narrow_step_computes_what_the_whole_model_would(pico: Any, name: str) -> None:
    model, layers = pico_layers(str(pico(name)))
    smp: Any = METHODS.load("smp")
    pruner = smp(smp.Settings(structure=0.3, allocation="L"))
    whole, upstream, plain = step(model, layers, pruner, narrow=False)
    biases = [layer.module.bias.detach().clone() for layer in layers]  # type: ignore[operator]
    narrow, fewer, scores = step(model, layers, pruner, narrow=True)
    torch.testing.assert_close(narrow, whole, rtol=1e-9, atol=1e-9)
    for layer, gradient, part, found, found_whole in zip(layers, upstream, fewer, scores, plain, strict=True):
        indices, axis = pruner.channels.chosen[layer.name]
        channels = torch.zeros(layer.weight.shape[axis], dtype=torch.bool)
        channels[indices] = True
        # A block without heads computes with one, as attention can't have none.
        computed = channels if channels.any() else torch.arange(len(channels)) < len(channels) // 2
        if name in COUNTING and layer.kind not in ("intermediate.dense", "output.dense"):
            computed = torch.ones_like(channels)
        lives = computed[:, None] if axis == 0 else computed[None, :]
        assert part.shape[axis] == int(computed.sum())
        assert part.shape[1 - axis] == layer.weight.shape[1 - axis]
        expected = gradient * layer.weight * lives
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found_whole, expected, rtol=1e-9, atol=1e-12)
    assert not len(pruner.channels.chosen[layers[0].name][0])
    for layer, bias in zip(layers, biases, strict=True):
        layer.set_mask(layer.mask)
        assert layer.effective.shape == layer.weight.shape
        assert torch.equal(layer.effective.detach(), layer.weight * layer.mask)
        assert torch.equal(layer.module.bias, bias)  # type: ignore[arg-type]


def test_a_method_that_selects_itself_or_draws_gates_or_trains_weights_computes_with_all(
    blocks: list[MaskedLayer],
) -> None:
    smp: Any = METHODS.load("smp")

    class Selects(smp):  # type: ignore[misc]
        def select(self, layer: MaskedLayer, kept: int) -> Tensor:
            return Pruner.select(self, layer, kept)

    class Draws(smp):  # type: ignore[misc]
        def gates(self, layer: MaskedLayer) -> tuple[Tensor, Tensor]:
            return torch.ones_like(layer.weight), torch.ones_like(layer.weight)

    for layer in blocks:
        layer.narrows = True
    movement: Any = METHODS.load("movement")
    for method, whole in ((Selects, True), (Draws, True), (movement, True), (smp, False)):
        pruner = method(method.Settings(structure=0.3))
        pruner.begin(blocks, 0.2)
        refresh(pruner, blocks, pruner.density(1.0, 0.2), narrow=True)
        assert all(layer.effective.shape == layer.weight.shape for layer in blocks) == whole
