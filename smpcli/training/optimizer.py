"""The optimiser: what is trained, at which learning rate, and how rates change over the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pruners.base import Pruner
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import score_parameters, weight_parameters
from smpcli.modeling.heads import TaskModel


def trained_weights(pruner: Pruner, model: TaskModel, layers: Sequence[MaskedLayer]) -> list[nn.Parameter]:
    """The weights (not scores) that the run trains; everything else is frozen by this call.

    A classifier head is always trained, as it starts at random; words and prototypes only where all weights are.
    """
    effective = {id(layer.effective) for layer in layers}
    weights: list[nn.Parameter] = []
    for name, parameter in model.backbone.named_parameters():
        if id(parameter) in effective:
            continue
        trains = pruner.trains_weights or (model.head == "classifier" and name in model.own_names)
        parameter.requires_grad_(trains)
        if trains:
            weights.append(parameter)
    return weights + weight_parameters(layers)


def make_optimizer(
    pruner: Pruner, weights: Sequence[nn.Parameter], layers: Sequence[MaskedLayer]
) -> torch.optim.AdamW:
    """AdamW; scores and weights at their own rates, no decay on scores, biases and norms.

    A group's "peak" is the rate that `set_rates` takes a fraction of.
    """
    settings = pruner.settings
    scores = score_parameters(layers)
    matrices = {id(weight) for weight in weight_parameters(layers)}
    # Stacked matrices are flat, too.
    flat = [weight for weight in weights if weight.ndim <= 1 and id(weight) not in matrices]
    groups: list[dict[str, Any]] = [
        {"params": scores, "peak": getattr(settings, "scores_lr", 0.0), "weight_decay": 0.0},
        {
            "params": [weight for weight in weights if weight.ndim > 1 or id(weight) in matrices],
            "peak": settings.weights_lr,
            "weight_decay": settings.weight_decay,
        },
        {"params": flat, "peak": settings.weights_lr, "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    # A run that trains nothing has an optimiser of nothing.
    return torch.optim.AdamW([group for group in groups if group["params"]] or groups[:1], betas=betas, fused=True)


def rate(step: int, steps: int, warmup: float, rewinds: int = 0) -> float:
    """The learning rate of `step` (from 0) of `steps`, as a fraction of its peak.

    It rises over the first `warmup` of the run, and falls linearly to 0 behind the last step; with rewinds it falls
    to 0 so many times before, evenly, and begins anew at its peak.
    """
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    # What is left of the run, in falls.
    left = max(0.0, (steps - step) * (rewinds + 1) / max(1.0, steps - rising))
    return left - max(0, math.ceil(left) - 1)


def set_rates(optimizer: torch.optim.Optimizer, fraction: float) -> None:
    """Give every group that fraction of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * fraction
