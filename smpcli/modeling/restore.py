"""From a run directory back to the pruned model, without retraining anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pruners.masking import MaskedLayer
from smpcli.errors import UserError
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import build_model
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.layers import find_prunable

if TYPE_CHECKING:
    from typing import Any

    from smpcli.results.rundir import RunDir
    from smpcli.settings import Settings

KEPT = ".kept"


def head_tensors(model: TaskModel) -> dict[str, Tensor]:
    """The task's own tensors that the base model doesn't hold (none for label words), by name in the backbone."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.own_parameters().items()}


def trained_tensors(model: TaskModel, layers: Sequence[MaskedLayer]) -> dict[str, Tensor]:
    """Every weight outside the head; of a masked matrix only the kept values, flat, under NAME.weight.kept."""
    masked = {f"{layer.name}.weight": layer for layer in layers}
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.backbone.named_parameters():
        if name in model.own_names:
            continue
        if name in masked:
            layer = masked[name]
            tensors[name + KEPT] = layer.weight.detach()[layer.mask].cpu()
        else:
            tensors[name] = parameter.detach().cpu().contiguous()
    return tensors


def restore(directory: RunDir, settings: Settings, labels: list[str]) -> tuple[TaskModel, Any]:
    """The pruned model of a finished run, in evaluation mode, and its tokenizer.

    Raises UserError when the base model is another than the run's, or a file doesn't fit it.
    """
    tokenizer = load_tokenizer(settings.model)
    model = build_model(settings.run, settings.task, labels, tokenizer)
    expected = directory.result.model.digest
    if model.base_digest() != expected:
        raise UserError(
            f"the weights of {settings.model} differ from those that {directory.path} was pruned from: "
            "use the same version of the base model"
        )
    parameters = dict(model.backbone.named_parameters())
    masks = directory.read_masks() if directory.has("mask.safetensors") else {}
    with torch.no_grad():
        for file in ("head.safetensors", "weights.safetensors"):
            if directory.has(file):
                for name, tensor in directory.read_tensors(file).items():
                    _place(parameters, masks, name, tensor, directory)
        for matrix in find_prunable(model.backbone, model.config) if masks else ():
            mask = masks.get(matrix.name)
            if mask is None or mask.shape != matrix.module.weight.shape:
                raise UserError(f"{directory.path}: mask.safetensors doesn't fit {settings.model} at {matrix.name}")
            matrix.module.weight.mul_(mask)
    return model.eval(), tokenizer


def _place(
    parameters: dict[str, torch.nn.Parameter],
    masks: dict[str, Tensor],
    name: str,
    tensor: Tensor,
    directory: RunDir,
) -> None:
    target = parameters.get(name.removesuffix(KEPT))
    misfit = UserError(f"{directory.path}: the tensor {name} doesn't fit the base model")
    if target is None:
        raise misfit
    if name.endswith(KEPT):
        mask = masks.get(name.removesuffix(".weight" + KEPT))
        if mask is None or mask.shape != target.shape or int(mask.sum()) != tensor.numel():
            raise misfit
        target.zero_()
        target[mask] = tensor
    elif target.shape == tensor.shape:
        target.copy_(tensor)
    else:
        raise misfit
