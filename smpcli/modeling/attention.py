"""The mask that attention gets in training on an accelerator, so that no step asks the device a question about it.

transformers asks of every mask (batch, length), in every forward pass, whether it masks anything, and waits for the
answer. A mask of four dimensions it takes as it is. Not every architecture does, nor means the same by it (one with
sliding windows would see all tokens), so a trial decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruners.masks.trial import same_answers
from smpcli.modeling.build import is_decoder
from smpcli.modeling.heads import TaskModel


@torch.no_grad()
def confirm_whole_mask(model: TaskModel, compute: Callable[[], Tensor]) -> bool:
    """Give the backbone a whole mask in training, if it answers the same with it; returns whether it does.

    compute: the answers of `model` to padded texts in evaluation mode, the longest of the training set among them.
    In evaluation the backbone is given the mask that it always was.
    """
    kind = getattr(model.config, "_attn_implementation", None)
    if kind not in ("eager", "sdpa"):
        return False
    mask = WholeMask(causal=is_decoder(model.config), additive=kind == "eager")
    expected = compute()
    hook = model.backbone.register_forward_pre_hook(mask, with_kwargs=True)
    try:
        found = compute()
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever an architecture makes of a mask that it doesn't know
        found = expected.new_empty(0)
    mask.in_evaluation = False
    if same_answers(expected, found):
        return True
    hook.remove()
    return False


class WholeMask:
    """Before a model's forward pass: in place of a mask (batch, length), that of each token for each other token."""

    def __init__(self, causal: bool, additive: bool) -> None:
        self.causal, self.additive = causal, additive
        self.in_evaluation = True

    def __call__(self, module: nn.Module, args: Any, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if not (module.training or self.in_evaluation):
            return None
        return args, {**inputs, "attention_mask": whole_mask(inputs["attention_mask"], self.causal, self.additive)}


def whole_mask(mask: Tensor, causal: bool, additive: bool) -> Tensor:
    """mask (batch, length), 0 at padding -> (batch, 1, length, length): which token (last) each token attends to.

    causal: only to those up to itself. Boolean, or additive: 0 and float32's lowest number, as transformers has it.
    """
    length = mask.shape[1]
    seen = mask.bool()[:, None, None, :].expand(-1, -1, length, -1)
    if causal:
        places = torch.arange(length, device=mask.device)
        seen = seen & (places <= places[:, None])
    if not additive:
        return seen
    return torch.zeros_like(seen, dtype=torch.float32).masked_fill_(~seen, torch.finfo(torch.float32).min)
