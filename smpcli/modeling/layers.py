"""Finding the prunable matrices of any encoder, without knowing its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from pruners.masking import MaskedLayer
from smpcli.errors import UserError


@dataclass(frozen=True)
class PrunableMatrix:
    """name: path in the model; kind: path inside its block, e.g. "attention.self.query"."""

    name: str
    kind: str
    module: nn.Linear


def find_prunable(model: nn.Module, config: Any) -> list[PrunableMatrix]:
    """Every `nn.Linear` inside the module list that has `config.num_hidden_layers` blocks, in model order.

    Embeddings, LayerNorm, biases and head are outside it, or no Linear, and are never pruned.
    Raises UserError when the model has no such stack.
    """
    depth = getattr(config, "num_hidden_layers", None)
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    # Outermost first; a list inside a block (of experts, say) is part of the block.
    stacks = [(name, stack) for name, stack in stacks if any(isinstance(m, nn.Linear) for m in stack.modules())]
    if not stacks:
        raise UserError(
            f"model type '{getattr(config, 'model_type', 'unknown')}' has no encoder stack of linear layers: "
            "choose a transformer encoder such as bert, roberta, distilbert or electra with --model"
        )
    prefix, stack = stacks[0]
    return [
        PrunableMatrix(f"{prefix}.{index}.{kind}", kind, module)
        for index, block in enumerate(stack)
        for kind, module in block.named_modules()
        if isinstance(module, nn.Linear)
    ]


def positions(model: nn.Module) -> int | None:
    """How many tokens the model can take, by its table of positions; None where it has none."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and kin begin to count behind the padding's own position.
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - skipped
    return None


def masked_layers(model: nn.Module, config: Any) -> list[MaskedLayer]:
    """The prunable matrices, each with its own W kept beside the module."""
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    return [MaskedLayer(found.name, found.kind, found.module, heads) for found in find_prunable(model, config)]
