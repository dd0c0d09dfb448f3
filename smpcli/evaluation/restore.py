"""From a run directory back to the pruned model, without retraining anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pruners.masks.layer import MaskedLayer
from smpcli.errors import UserError
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import build_model
from smpcli.modeling.fit import refuse_infinite
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.layers import find_prunable
from smpcli.modeling.reading import read_alike

if TYPE_CHECKING:
    from typing import Any

    from smpcli.runs.rundir import RunDir
    from smpcli.runs.schema import ModelInfo
    from smpcli.settings import Settings
    from smpcli.tasks.task import Task

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
    tokenizer = load_tokenizer(settings.run.model)
    model = build_model(settings.run.spec, _as_trained(settings.task, directory.result.model), labels, tokenizer)
    read_alike(model, tokenizer, directory.result.data.special_tokens)
    require_base(model, directory.result.model.digest, settings.run.model, directory.path)
    head = directory.read_tensors("head.safetensors") if directory.has("head.safetensors") else {}
    if missing := model.own_parameters().keys() - head.keys():
        raise UserError(f"{directory.path}: head.safetensors lacks {min(missing)}")
    masks = directory.read_masks() if directory.has("mask.safetensors") else {}
    trained = directory.read_tensors("weights.safetensors") if directory.has("weights.safetensors") else {}
    place_tensors(model, {**head, **trained}, masks, directory.path)
    apply_masks(model, masks, directory.path)
    return model.eval(), tokenizer


def _as_trained(task: Task, model: ModelInfo) -> Task:
    """The task with the label words that the run was trained with, whatever the task's are today."""
    if model.head != "words":
        return task
    # Runs that don't record them are from when a span's were the other way round; other tasks' have stayed.
    words = model.words or ({"start": "No", "end": "Yes"} if task.kind == "span" else task.words)
    return task.model_copy(update={"words": words})


def require_base(model: TaskModel, digest: str, name: str, where: Path) -> None:
    """Refuse another base model than the one that was pruned. Raises UserError."""
    if model.base_digest() != digest:
        raise UserError(
            f"the weights of {name} differ from those that {where} was pruned from",
            "use the same version of the base model",
        )


@torch.no_grad()
def place_tensors(model: TaskModel, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], where: Path) -> None:
    """Copy head and trained tensors into the model. Raises UserError for one that doesn't fit or holds NaN."""
    refuse_infinite(tensors, str(where))
    parameters = dict(model.backbone.named_parameters())
    for name, tensor in tensors.items():
        target = parameters.get(name.removesuffix(KEPT))
        misfit = UserError(f"{where}: the tensor {name} doesn't fit the base model")
        if target is None:
            raise misfit
        if name.endswith(KEPT):
            mask = masks.get(name.removesuffix(".weight" + KEPT))
            if mask is None or mask.shape != target.shape or int(mask.sum()) != tensor.numel():
                raise misfit
            target.zero_()
            target[mask] = tensor
        elif target.shape == tensor.shape and target.dtype == tensor.dtype:
            target.copy_(tensor)
        else:
            raise misfit


@torch.no_grad()
def apply_masks(model: TaskModel, masks: Mapping[str, Tensor], where: Path) -> None:
    """Zero what the masks prune; no masks: a dense run. Raises UserError when they don't fit the model."""
    if not masks:
        return
    prunable = find_prunable(model.backbone, model.config)
    if strange := masks.keys() - {matrix.name for matrix in prunable}:
        raise UserError(f"{where}: its mask is of another model, which has a matrix {min(strange)}")
    for matrix in prunable:
        mask = masks.get(matrix.name)
        if mask is None or mask.shape != matrix.module.weight.shape:
            raise UserError(f"{where}: its mask doesn't fit the base model at {matrix.name}")
        matrix.module.weight.mul_(mask)
