"""THE loop: every method is trained by this one function."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pruners.errors import ScoreError
from pruners.masking import draw_gates, fold_factors, refresh, straight_through
from pruners.masks.layer import MaskedLayer
from smpcli.device import training_context
from smpcli.encoding.batches import MicroBatch
from smpcli.evaluation.evaluate import Evaluation
from smpcli.training.objective import Objective
from smpcli.training.processes import drawing_alike
from smpcli.training.progress import FULL, Position, Step, TrainingDiverged, Watch

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from pruners.base import Pruner
    from smpcli.training.best import Best


@dataclass(frozen=True)
class Summary:
    """What a finished training says about itself. best: what dev chose, where it was asked to."""

    evaluation: Evaluation
    history: list[tuple[int, dict[str, float]]]
    seconds: float
    loss: float
    best: Best | None = None


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
    watch: Watch | None = None,
    best: Best | None = None,
) -> Summary:
    """Train for `steps` steps and leave the model pruned to `final_density`.

    layers are empty for a method that doesn't prune; `weights` are the trained weights beside the scores.
    evaluate_after: numbers of done steps (below `steps`) after which to evaluate; the end is always evaluated.
    best: end as the model of the best evaluation at the final density; None: as the last.
    Raises TrainingDiverged when the loss, the gradient or a score is NaN or infinite.
    """
    watch = watch or Watch()
    pruner.begin(layers, final_density)
    start = watch.start
    trained = [*weights, *(part for layer in layers for part in layer.score_parameters())]
    # Gradients that processes exchange stay in full precision.
    dtype = torch.bfloat16 if precision == "bf16" and accelerator.num_processes == 1 else None
    history = list(start.history)
    started = time.perf_counter() - start.seconds
    loss_value = start.loss

    def position(done: int, density: float, evaluated: bool = True) -> Position:
        return Position(done, density, loss_value, time.perf_counter() - started, tuple(history), evaluated)

    def finish_step(done: int, density: float) -> None:
        metrics: dict[str, float] = {}
        if done in evaluate_after:
            candidate = best if _is_final(density, final_density) or not layers else None
            if candidate is not None and layers:
                # As at the end: masks of the scores after the step. The schedule is asked, as in every step.
                _refresh(pruner, layers, pruner.density((done - 1) / steps, final_density), done - 1)
            # W' is that of before the optimiser's step, or holds drawn gates, in the step's precision.
            for layer in layers:
                layer.set_mask(layer.mask)
            with watch.evaluating(position(done, density, evaluated=False)):
                metrics = evaluate().metrics
            history.append((done, metrics))
            if candidate is not None:
                candidate.offer(done, metrics)
        on_step(Step(done, steps, density, loss_value, metrics))
        watch.after_step(position(done, density))

    model.train()
    if not start.evaluated:
        finish_step(start.step, start.density)
    for step, micro_batches in enumerate(_repeat(batches, steps, watch), start.step):
        progress = step / steps
        density = pruner.density(progress, final_density) if layers else FULL
        if layers:
            _refresh(pruner, layers, density, step, dtype, narrow=accelerator.num_processes == 1)
            with drawing_alike(accelerator):
                draw_gates(pruner, layers)
        loss = _backward(model, micro_batches, objective, precision, accelerator)
        straight_through(pruner, layers, pruner.penalty_weight(progress))
        norm = accelerator.clip_grad_norm_(trained, max_grad_norm)
        optimizer.step()
        fold_factors(layers)
        scheduler.step()
        optimizer.zero_grad()
        # Of several processes each has a part of the batch.
        loss_value = accelerator.reduce(loss, "mean").item()
        if not math.isfinite(loss_value):
            raise TrainingDiverged(step, f"the loss is {loss_value}")
        if norm is not None and not math.isfinite(norm):
            raise TrainingDiverged(step, f"the gradient's norm is {float(norm)}")
        finish_step(step + 1, density)
    if layers:
        refuse_infinite([part for layer in layers for part in layer.score_parameters()], steps - 1)
        # Asked of the schedule, as in every step: a run that is resumed behind its last step has not asked yet.
        _refresh(pruner, layers, pruner.density(1.0, final_density), steps - 1)
    with watch.evaluating(position(steps, final_density if layers else FULL, evaluated=False)):
        evaluation = evaluate()
    history.append((steps, evaluation.metrics))
    on_step(Step(steps, steps, final_density if layers else FULL, loss_value, evaluation.metrics))
    if best is not None:
        best.offer(steps, evaluation.metrics)
        if best.step != steps:
            best.put_back()
            evaluation = evaluate()
    return Summary(evaluation, history, time.perf_counter() - started, loss_value, best)


def _is_final(density: float, final: float) -> bool:
    """Whether a mask of this density keeps as many weights as the finished one (`kept_weights` rounds alike)."""
    return round(density, 12) == round(final, 12)


def _backward(
    model: nn.Module,
    micro_batches: Sequence[MicroBatch],
    objective: Objective,
    precision: str,
    accelerator: Accelerator,
) -> Tensor:
    """Add up the gradients of a batch's mean loss, micro-batch by micro-batch; returns that loss, a scalar."""
    examples = sum(len(labels) for _, labels in micro_batches)
    total = torch.zeros((), device=accelerator.device)
    for inputs, labels in micro_batches:
        # Several processes exchange gradients once a batch.
        last = labels is micro_batches[-1][1]
        with nullcontext() if last else accelerator.no_sync(model):
            with training_context(precision, accelerator.device):
                logits = model(**inputs)
            loss = objective(inputs, logits.float(), labels) * (len(labels) / examples)
            accelerator.backward(loss)
        total += loss.detach()
    return total


def _refresh(
    pruner: Pruner,
    layers: Sequence[MaskedLayer],
    density: float,
    step: int,
    dtype: torch.dtype | None = None,
    narrow: bool = False,
) -> None:
    try:
        refresh(pruner, layers, density, dtype, narrow=narrow)
    except ScoreError as error:
        raise TrainingDiverged(step, str(error)) from error


def refuse_infinite(tensors: Sequence[Tensor], step: int) -> None:
    """Raise TrainingDiverged where a trained number is NaN or infinite."""
    for tensor in tensors:
        # The sum of finite numbers may overflow, so it only acquits.
        if not math.isfinite(tensor.detach().sum()) and not bool(tensor.detach().isfinite().all()):
            raise TrainingDiverged(step, "a trained weight or score is NaN or infinite")


def _repeat(batches: DataLoader[Any], steps: int, watch: Watch) -> Iterator[Sequence[MicroBatch]]:
    """Batches of as many epochs as `steps` need; a resumed loader's first epoch begins where it was left."""
    first = done = watch.start.step
    while done < steps:
        for batch in batches:
            if done == first and first % len(batches):
                # To begin an epoch draws a random number, which was drawn before the run was left.
                watch.restore_random()
            yield batch
            done += 1
            if done == steps:
                return
