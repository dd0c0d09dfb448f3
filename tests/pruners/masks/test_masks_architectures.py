"""The table of architectures: true of real models, and the one place to add to."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pruners.masks.architectures import ARCHITECTURES, BlockPlaces, HeadPlaces, Places, in_attention, role_of
from pruners.masks.layer import MaskedLayer
from pruners.masks.structure import find_channels, has_channels
from smpcli.errors import UserError
from smpcli.export.stock import require_supported
from smpcli.inspection.matrices import compact, describe, kinds

#: Which tiny model has the blocks of an entry; other entries share those of one here.
TINY = {"deberta-v2": "deberta-v3"}
SIX = ["odd.ask", "odd.call", "odd.tell", "odd.mix", "odd.wide", "odd.slim"]
SHAPES = [(4, 4)] * 4 + [(6, 4), (4, 6)]


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert", "mpnet", "deberta-v2", "llama"])
def test_an_entry_is_true_of_its_model(pico: Callable[[str], Any], name: str) -> None:
    import transformers as hf

    from smpcli.modeling.layers import find_prunable

    model = hf.AutoModel.from_pretrained(pico(TINY.get(name, name)))
    assert model.config.model_type == name
    places = ARCHITECTURES[name].block
    found = find_prunable(model, model.config)
    assert {matrix.kind for matrix in found} == set(places.matrices.values())
    up, down = (next(m.module for m in found if m.kind == places.matrices[role]) for role in ("up", "down"))
    assert up.weight.shape == down.weight.shape[::-1]
    if places.stack:
        norms = [block.get_submodule(path) for block in model.get_submodule(places.stack) for path in places.norms]
        assert len(norms) == 2 * model.config.num_hidden_layers
        assert all(isinstance(norm, nn.LayerNorm) for norm in norms)


def test_a_name_has_one_role() -> None:
    pairs = {(path, role) for places in ARCHITECTURES.values() for role, path in places.block.matrices.items()}
    assert len(pairs) == len({path for path, _ in pairs})


@pytest.mark.parametrize(
    ("kind", "role", "attention"),
    [
        ("attention.output.dense", "output", True),
        ("output.dense", "down", False),
        ("mlp.gate_proj", "gate", False),
        ("attention.query", "query", True),  # ALBERT's
        ("attention.dense", None, True),
        ("encoder_attn.q_proj", "query", False),
        ("mlp.c_fc", None, False),
    ],
)
def test_roles_go_by_the_path_then_by_its_last_part(kind: str, role: str | None, attention: bool) -> None:
    assert (role_of(kind), in_attention(kind)) == (role, attention)


def test_one_entry_is_all_that_an_architecture_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels for `structure`, the order and the sizes that `inspect` shows, and what can be exported as compact."""
    layers = [
        MaskedLayer(f"layer.0.{kind}", kind, nn.Linear(inputs, out), 2)
        for kind, (out, inputs) in zip(SIX, SHAPES, strict=True)
    ]
    masks = {layer.name: torch.ones(layer.weight.shape, dtype=torch.bool) for layer in layers}
    masks["layer.0.odd.tell"][2:] = False  # the second head's values
    config = SimpleNamespace(model_type="odd", hidden_act="gelu")
    assert not has_channels(layers) and compact(masks, 2).heads is None
    with pytest.raises(UserError, match="model type 'odd' can't be made compact"):
        require_supported(config)

    matrices = dict(zip(("query", "key", "value", "output", "up", "down"), SIX, strict=True))
    heads = {"SequenceClassification": HeadPlaces("dense", "tanh", "out")}
    monkeypatch.setitem(ARCHITECTURES, "odd", Places(BlockPlaces(matrices, "layer", ("one", "two")), heads))
    (block,) = find_channels(layers)
    assert [pair.sides for pair in block] == [((0, 0), (1, 0)), ((2, 0), (3, 1)), ((4, 0), (5, 1))]
    assert kinds(describe(masks)) == SIX
    found = compact(masks, 2)
    assert found.heads is not None and (found.heads.gone, found.heads.total) == (1, 2)
    assert require_supported(config) == "odd"


def test_a_seventh_matrix_makes_it_another_block() -> None:
    paths = [*ARCHITECTURES["bert"].block.matrices.values(), "output.gate"]
    layers = [
        MaskedLayer(f"layer.0.{kind}", kind, nn.Linear(inputs, out), 2)
        for kind, (out, inputs) in zip(paths, [*SHAPES, (4, 4)], strict=True)
    ]
    assert has_channels(layers[:6]) and not has_channels(layers)
