"""What a few batches through the dense model say about each layer, for methods whose scores start from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruners.masks.layer import LayerStatistics, MaskedLayer


@torch.no_grad()
def input_statistics(
    model: nn.Module, layers: Sequence[MaskedLayer], batches: Iterable[dict[str, Tensor]]
) -> dict[str, LayerStatistics]:
    """Root of the summed squares of each layer's input features over all real (unpadded) tokens of the batches.

    Zeros where no token came (an expert that none was sent to).
    """
    sums = {layer.name: layer.weight.new_zeros(layer.weight.shape[1], dtype=torch.float32) for layer in layers}
    present: Tensor | None = None

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs = args[0]
            if present is not None and inputs.shape[:-1] == present.shape:
                inputs = inputs[present]
            inputs = inputs.reshape(-1, inputs.shape[-1])
            sums[name] = sums[name] + inputs.float().square().sum(0)

        return hook

    hooks = [layer.module.register_forward_pre_hook(watch(layer.name)) for layer in layers]
    training = model.training
    model.eval()
    for inputs in batches:
        present = inputs["attention_mask"].bool()
        model(**inputs)
    model.train(training)
    for hook in hooks:
        hook.remove()
    return {name: LayerStatistics(total.sqrt()) for name, total in sums.items()}
