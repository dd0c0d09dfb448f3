"""THE loop: every method is trained by this one function."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pruners.masking import MaskedLayer, draw_gates, fold_factors, refresh, straight_through
from pruners.selection import ScoreError
from smpcli.errors import UserError
from smpcli.training.device import training_context
from smpcli.training.evaluate import Evaluation
from smpcli.training.objective import Objective
from smpcli.training.processes import drawing_alike

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from pruners.base import Pruner

FULL = 1.0


class TrainingDiverged(UserError):
    """Loss or scores are no longer numbers."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(
            f"training diverged at step {step + 1}: {reason}; lower a learning rate (--set weights_lr or scores_lr)"
        )


@dataclass(frozen=True)
class Step:
    """What is worth showing after a step (or an evaluation, then `metrics` is filled)."""

    step: int
    steps: int
    density: float
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What a finished training says about itself."""

    evaluation: Evaluation
    history: list[tuple[int, dict[str, float]]]
    seconds: float
    loss: float


def train(
    *,
    model: nn.Module,
    pruner: Pruner,
    layers: Sequence[MaskedLayer],
    weights: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    batches: DataLoader[Any],
    steps: int,
    final_density: float,
    objective: Objective,
    max_grad_norm: float,
    evaluate: Callable[[], Evaluation],
    evaluate_after: Set[int],
    on_step: Callable[[Step], None],
    precision: str,
    accelerator: Accelerator,
) -> Summary:
    """Train for `steps` steps and leave the model pruned to `final_density`.

    layers are empty for a method that doesn't prune; `weights` are the trained weights beside the scores.
    evaluate_after: numbers of done steps (below `steps`) after which to evaluate; the end is always evaluated.
    Raises TrainingDiverged when the loss is NaN or infinite.
    """
    trained = [*weights, *(part for layer in layers for part in layer.score_parameters())]
    # Gradients that processes exchange stay in full precision.
    dtype = torch.bfloat16 if precision == "bf16" and accelerator.num_processes == 1 else None
    history: list[tuple[int, dict[str, float]]] = []
    started = time.perf_counter()
    loss_value = math.nan
    model.train()
    for step, (inputs, labels) in enumerate(_repeat(batches, steps)):
        progress = step / steps
        density = pruner.density(progress, final_density) if layers else FULL
        if layers:
            _refresh(pruner, layers, density, step, dtype)
            with drawing_alike(accelerator):
                draw_gates(pruner, layers)
        with training_context(precision, accelerator.device):
            logits = model(**inputs)
        loss = objective(inputs, logits.float(), labels)
        accelerator.backward(loss)
        straight_through(pruner, layers, pruner.penalty_weight(progress))
        accelerator.clip_grad_norm_(trained, max_grad_norm)
        optimizer.step()
        fold_factors(layers)
        scheduler.step()
        optimizer.zero_grad()
        # Of several processes each has a part of the batch.
        loss_value = accelerator.reduce(loss.detach(), "mean").item()
        if not math.isfinite(loss_value):
            raise TrainingDiverged(step, f"the loss is {loss_value}")
        metrics: dict[str, float] = {}
        if step + 1 in evaluate_after:
            # W' is that of before the optimiser's step, or holds drawn gates, in the step's precision.
            for layer in layers:
                layer.set_mask(layer.mask)
            metrics = evaluate().metrics
            history.append((step + 1, metrics))
        on_step(Step(step + 1, steps, density, loss_value, metrics))
    if layers:
        _refresh(pruner, layers, final_density, steps)
    evaluation = evaluate()
    history.append((steps, evaluation.metrics))
    seconds = time.perf_counter() - started
    on_step(Step(steps, steps, final_density if layers else FULL, loss_value, evaluation.metrics))
    return Summary(evaluation, history, seconds, loss_value)


def _refresh(
    pruner: Pruner, layers: Sequence[MaskedLayer], density: float, step: int, dtype: torch.dtype | None = None
) -> None:
    try:
        refresh(pruner, layers, density, dtype)
    except ScoreError as error:
        raise TrainingDiverged(step, str(error)) from error


def _repeat(batches: DataLoader[Any], steps: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Batches of as many epochs as `steps` need."""
    done = 0
    while done < steps:
        for batch in batches:
            yield batch
            done += 1
            if done == steps:
                return
