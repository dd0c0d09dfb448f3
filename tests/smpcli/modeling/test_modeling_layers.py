"""Finding the prunable matrices of any encoder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from smpcli.errors import UserError
from smpcli.modeling.layers import find_prunable, masked_layers

# What is prunable, worked out by hand: blocks, and the paths of the linears of a block with their shapes (out, in).
H, I = 32, 48  # noqa: E741
BERT = {
    "attention.self.query": (H, H),
    "attention.self.key": (H, H),
    "attention.self.value": (H, H),
    "attention.output.dense": (H, H),
    "intermediate.dense": (I, H),
    "output.dense": (H, I),
}
EXPECTED: dict[str, tuple[str, int, dict[str, tuple[int, int]]]] = {
    "bert": ("encoder.layer", 2, BERT),
    "bert-mlm": ("bert.encoder.layer", 2, BERT),
    "roberta": ("roberta.encoder.layer", 3, BERT),
    "electra": ("electra.encoder.layer", 2, BERT),
    "mpnet": (
        "mpnet.encoder.layer",
        2,
        {
            "attention.attn.q": (H, H),
            "attention.attn.k": (H, H),
            "attention.attn.v": (H, H),
            "attention.attn.o": (H, H),
            "intermediate.dense": (I, H),
            "output.dense": (H, I),
        },
    ),
    "distilbert": (
        "distilbert.transformer.layer",
        2,
        {
            "attention.q_lin": (H, H),
            "attention.k_lin": (H, H),
            "attention.v_lin": (H, H),
            "attention.out_lin": (H, H),
            "ffn.lin1": (I, H),
            "ffn.lin2": (H, I),
        },
    ),
}


def load(pico: Any, name: str) -> Any:
    auto = hf.AutoModel if name == "bert" else hf.AutoModelForMaskedLM
    return auto.from_pretrained(pico(name))


@pytest.mark.parametrize("name", EXPECTED)
def test_exactly_the_linears_of_the_encoder_are_found(pico: Any, name: str) -> None:
    model = load(pico, name)
    prefix, depth, block = EXPECTED[name]
    found = find_prunable(model, model.config)
    assert {(matrix.name, matrix.kind, tuple(matrix.module.weight.shape)) for matrix in found} == {
        (f"{prefix}.{layer}.{kind}", kind, shape) for layer in range(depth) for kind, shape in block.items()
    }
    # In the model's order, so block by block, and each name is where it says.
    order = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert [matrix.name for matrix in found] == [path for path in order if path.startswith(f"{prefix}.")]
    assert all(model.get_submodule(matrix.name) is matrix.module for matrix in found)
    assert sum(matrix.module.weight.numel() for matrix in found) == depth * (4 * H * H + 2 * H * I)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_same_matrices_under_a_classification_head(pico: Any, name: str) -> None:
    model = hf.AutoModelForSequenceClassification.from_pretrained(pico(name))
    _, depth, block = EXPECTED[name]
    assert len(find_prunable(model, model.config)) == depth * len(block)


def test_the_head_s_and_the_embeddings_linears_are_left_out(pico: Any) -> None:
    # ELECTRA projects its embeddings by a Linear, and its head has two.
    model = load(pico, "electra")
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = {matrix.name for matrix in find_prunable(model, model.config)}
    assert linears - found == {
        "electra.embeddings_project",
        "generator_predictions.dense",
        "generator_lm_head",
    }


def test_masked_layers_keep_w_beside_the_module(pico: Any) -> None:
    model = load(pico, "bert")
    layers = masked_layers(model, model.config)
    assert [(layer.name, layer.kind) for layer in layers] == [
        (matrix.name, matrix.kind) for matrix in find_prunable(model, model.config)
    ]
    for layer in layers:
        assert torch.equal(layer.weight, layer.effective)
        assert layer.mask.all()
        before = layer.weight.clone()
        layer.set_mask(torch.zeros_like(layer.mask))
        assert torch.equal(layer.weight, before)
        assert layer.weight.data_ptr() != layer.effective.data_ptr()
        assert not layer.effective.any()


def test_a_list_inside_a_block_belongs_to_the_block() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.LayerNorm(3), nn.LayerNorm(3)])
            self.blocks = nn.ModuleList([Block(), Block()])

    found = find_prunable(Model(), SimpleNamespace(num_hidden_layers=2))
    assert [(matrix.name, matrix.kind) for matrix in found] == [
        (f"blocks.{block}.experts.{expert}", f"experts.{expert}") for block in (0, 1) for expert in (0, 1)
    ]


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (nn.Sequential(nn.Linear(2, 2)), SimpleNamespace(model_type="odd", num_hidden_layers=1)),
        (nn.Sequential(nn.Linear(2, 2)), SimpleNamespace(model_type="odd")),
        (nn.ModuleList([nn.LayerNorm(2)]), SimpleNamespace(model_type="odd", num_hidden_layers=1)),
        (nn.ModuleList([nn.Linear(2, 2)] * 3), SimpleNamespace(model_type="odd", num_hidden_layers=2)),
    ],
)
def test_a_model_without_a_stack_is_refused(model: nn.Module, config: Any) -> None:
    with pytest.raises(UserError, match="model type 'odd' has no stack of blocks with linear layers") as caught:
        find_prunable(model, config)
    assert "--model" in str(caught.value)


def test_a_stack_of_other_things_than_linears_is_refused() -> None:
    # GPT-2 is built of its own Conv1D, until make_linear has been there.
    config = hf.GPT2Config(vocab_size=9, n_embd=8, n_layer=2, n_head=2, n_positions=8)
    with pytest.raises(UserError, match="'gpt2' has no stack of blocks with linear layers"):
        find_prunable(hf.GPT2Model(config), config)
