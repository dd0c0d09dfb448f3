"""Finding the prunable matrices of any transformer, without knowing its architecture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruners.masks.layer import MaskedLayer
from smpcli.errors import UserError

# Above this part of a block's weights outside linear layers, "90 % pruned" would be said of something else.
MOST_OUTSIDE = 0.1


@dataclass(frozen=True)
class PrunableMatrix:
    """name: path in the model; kind: path inside its block, e.g. "attention.self.query"."""

    name: str
    kind: str
    module: nn.Linear


def find_prunable(model: nn.Module, config: Any) -> list[PrunableMatrix]:
    """Every `nn.Linear` inside the module list that has `config.num_hidden_layers` blocks, in model order.

    Blocks that share their weights (ALBERT's `num_hidden_groups`) are one: one matrix, one mask, however often it is
    used. Embeddings, LayerNorm, biases and head are outside the list, or no Linear, and are never pruned.
    Raises UserError when the model has no such stack, or keeps much of its weights outside linear layers.
    """
    depth = getattr(config, "num_hidden_groups", None) or getattr(config, "num_hidden_layers", None)
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    # Outermost first; a list inside a block (of experts, say) is part of the block.
    stacks = [(name, stack) for name, stack in stacks if any(isinstance(m, nn.Linear) for m in stack.modules())]
    kind_of_model = getattr(config, "model_type", "unknown")
    if not stacks:
        raise UserError(
            f"model type '{kind_of_model}' has no stack of blocks with linear layers",
            "choose a transformer such as bert, roberta, distilbert, electra or gpt2 with --model",
        )
    prefix, stack = stacks[0]
    _check_linear(stack, kind_of_model)
    return list(_matrices(prefix, stack))


def _matrices(prefix: str, stack: nn.ModuleList) -> Iterator[PrunableMatrix]:
    seen: set[int] = set()
    for index, block in enumerate(stack):
        for kind, module in block.named_modules():
            if isinstance(module, nn.Linear) and id(module.weight) not in seen:
                seen.add(id(module.weight))
                yield PrunableMatrix(f"{prefix}.{index}.{kind}", kind, module)


def _check_linear(stack: nn.ModuleList, model_type: str) -> None:
    """Refuse blocks whose weights are to a good part in tensors that no mask would reach (fused experts, XLNet)."""
    inside = {id(module.weight) for module in stack.modules() if isinstance(module, nn.Linear)}
    matrices = [(name, weight) for name, weight in stack.named_parameters() if weight.ndim > 1]
    outside = [(name, weight) for name, weight in matrices if id(weight) not in inside]
    share = sum(weight.numel() for _, weight in outside) / sum(weight.numel() for _, weight in matrices)
    if share > MOST_OUTSIDE:
        name = max(outside, key=lambda entry: entry[1].numel())[0]
        raise UserError(
            f"model type '{model_type}' can't be pruned: {share:.0%} of its blocks' weights are in no linear layer "
            f"(such as {name})",
            "choose a transformer such as bert, roberta, distilbert, electra or gpt2 with --model",
        )


class TransposedLinear(nn.Linear):
    """GPT-2's Conv1D as the linear layer that it is: weight (out, in) in memory, (in, out) in every state dict.

    So methods see rows and columns that mean what they mean elsewhere, and checkpoints keep the stock layout.
    """

    @classmethod
    def of(cls, conv: nn.Module) -> TransposedLinear:
        """conv: a `transformers.pytorch_utils.Conv1D`, weight (in, out)."""
        weight, bias = conv.weight, conv.bias
        assert isinstance(weight, nn.Parameter) and isinstance(bias, nn.Parameter)
        inputs, out = weight.shape
        with torch.device("meta"):
            made = cls(inputs, out)
        made.weight = nn.Parameter(weight.detach().T.contiguous())
        made.bias = bias
        return made

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"].T.contiguous()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        name = f"{prefix}weight"
        turned = {**state_dict, name: state_dict[name].T} if name in state_dict else state_dict
        super()._load_from_state_dict(turned, prefix, *args)


def make_linear(model: nn.Module) -> nn.Module:
    """Replace every Conv1D (GPT-2 and the like) by a TransposedLinear, in place; other models stay as they are."""
    from transformers.pytorch_utils import Conv1D

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Conv1D)]
    for name, module in found:
        model.set_submodule(name, TransposedLinear.of(module))
    return model


def attention_heads(config: Any) -> int:
    """Heads of every block's attention; 0 where the configuration doesn't say one number, e.g. as blocks differ."""
    try:
        return max(0, int(getattr(config, "num_attention_heads", 0) or 0))
    except (RuntimeError, ValueError, TypeError):
        return 0


def masked_layers(model: nn.Module, config: Any) -> list[MaskedLayer]:
    """The prunable matrices, each with its own W kept beside the module."""
    heads = attention_heads(config)
    return [MaskedLayer(found.name, found.kind, found.module, heads) for found in find_prunable(model, config)]
