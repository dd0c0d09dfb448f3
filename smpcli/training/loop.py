"""THE loop: every method is trained by this one function, a step at a time as a paper's method section has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pruners.errors import ScoreError
from pruners.masking import draw_gates, fold_factors, refresh, show_masks, start_running, straight_through
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import score_parameters
from smpcli.device import training_context
from smpcli.encoding.batches import MicroBatch
from smpcli.errors import UserError
from smpcli.evaluation.evaluate import Evaluation
from smpcli.training.health import Health, refuse_infinite
from smpcli.training.objective import Objective
from smpcli.training.optimizer import rate, set_rates
from smpcli.training.passes import Passes, Recording
from smpcli.training.processes import drawing_alike
from smpcli.training.progress import FULL, Position, Step, TrainingDiverged, Watch

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from pruners.base import Pruner
    from smpcli.training.best import Best


@dataclass(frozen=True)
class Summary:
    """What a finished training says about itself. best: what dev chose, where it was asked to; note: of `Passes`."""

    evaluation: Evaluation
    history: list[tuple[int, dict[str, float]]]
    seconds: float
    loss: float
    best: Best | None = None
    note: str | None = None


class Training:
    """A model, the method that prunes it, and the optimiser: what a step changes.

    model: as it is called, so wrapped where several processes train; layers: the masked matrices, none for a method
    that doesn't prune; weights: the trained weights beside the scores; steps: of the whole run, which schedules are
    fractions of; precision: "fp32" or "bf16", of the forward pass; recording: what the model's passes are replayed
    from, None: they are carried out.
    """

    def __init__(
        self,
        model: nn.Module,
        pruner: Pruner,
        layers: Sequence[MaskedLayer],
        weights: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        accelerator: Accelerator,
        *,
        steps: int,
        final_density: float,
        precision: str = "fp32",
        max_grad_norm: float = 1.0,
        recording: Recording | None = None,
    ) -> None:
        self.model = model
        self.pruner = pruner
        self.layers = layers
        self.optimizer = optimizer
        self.objective = objective
        self.accelerator = accelerator
        self.steps = steps
        self.final_density = final_density
        self.precision = precision
        self.max_grad_norm = max_grad_norm
        self.passes = Passes(self._pass, [one for one in model.parameters() if one.requires_grad], recording)
        self.health = Health(accelerator.device)
        self.scores = score_parameters(layers)
        self._trained = [*weights, *self.scores]
        self._alone = accelerator.num_processes == 1
        # Gradients that processes exchange stay in full precision.
        self._dtype = torch.bfloat16 if precision == "bf16" and self._alone else None
        # Steps from one choice of masks to the next, where a method has that setting.
        self.mask_every = int(getattr(pruner.settings, "mask_every", 1))
        pruner.begin(layers, final_density)
        start_running(pruner, layers)

    def density(self, step: int) -> float:
        """The fraction of prunable weights that `step`, counted from 0, computes with: as when masks were chosen."""
        chosen = step - step % self.mask_every if step < self.steps else step
        progress = chosen / self.steps if self.steps else 1.0
        return self.pruner.density(progress, self.final_density) if self.layers else FULL

    def step(self, step: int, micro_batches: Sequence[MicroBatch]) -> None:
        """Train on one batch; `health` knows its loss. On an accelerator nothing is waited for.

        W' = W * M(S) (eq. 2), dL/dW' from the model's own backward pass, dL/dS = dL/dW' * W (eq. 3), AdamW.
        Raises TrainingDiverged when the loss, the gradient's norm or a score is NaN or infinite; on an accelerator
        when `health` is asked next.
        """
        ranked = None
        if self.layers:
            if step % self.mask_every == 0:
                ranked = self.choose_masks(step, self._dtype, narrow=self._alone)
            else:
                show_masks(self.layers, self._dtype)
            with drawing_alike(self.accelerator):
                draw_gates(self.pruner, self.layers)
        loss = self.backward(micro_batches)
        straight_through(self.pruner, self.layers, self.pruner.penalty_weight(step / self.steps), step)
        norm = self.accelerator.clip_grad_norm_(self._trained, self.max_grad_norm)
        settings = self.pruner.settings
        set_rates(self.optimizer, rate(step, self.steps, settings.warmup, getattr(settings, "rewinds", 0)))
        self.optimizer.step()
        fold_factors(self.layers)
        self.optimizer.zero_grad()
        # Of several processes each has a part of the batch.
        self.health.note(step, self.accelerator.reduce(loss, "mean"), norm, ranked)

    def finish(self) -> None:
        """Leave the model pruned to the final density."""
        self.health.read()
        if self.layers:
            refuse_infinite(self.scores, self.steps - 1)
            self.choose_masks(self.steps)

    def choose_masks(self, step: int, dtype: torch.dtype | None = None, narrow: bool = False) -> Tensor | None:
        """The masks of the scores as they are, at the density of `step`; `steps` of them: the final one.

        dtype, narrow, and what is returned: as in `pruners.masking.refresh`.
        """
        try:
            return refresh(self.pruner, self.layers, self.density(step), dtype, narrow=narrow)
        except ScoreError as error:
            if not self.steps:
                raise UserError(f"method '{self.pruner.name}' can't choose masks: {error}") from error
            raise TrainingDiverged(min(step, self.steps - 1), str(error)) from error

    def backward(self, micro_batches: Sequence[MicroBatch]) -> Tensor:
        """Add up the gradients of a batch's mean loss, micro-batch by micro-batch; returns that loss, a scalar."""
        examples = sum(len(labels) for _, labels in micro_batches)
        total: Tensor | None = None
        self.passes.begin()
        for inputs, labels in micro_batches:
            # Several processes exchange gradients once a batch.
            last = labels is micro_batches[-1][1]
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.passes(inputs, labels, len(labels) / examples)
            total = loss if total is None else total + loss
        assert total is not None, "a batch has examples"
        return total

    def _pass(self, inputs: dict[str, Tensor], labels: Tensor, share: float) -> Tensor:
        with training_context(self.precision, self.accelerator.device):
            logits = self.model(**inputs)
        loss = self.objective(inputs, logits.float(), labels)
        loss = loss if share == 1 else loss * share
        self.accelerator.backward(loss)
        return loss.detach()


def train(
    training: Training,
    batches: DataLoader[Any],
    *,
    evaluate: Callable[[], Evaluation],
    evaluate_after: Set[int] = frozenset(),
    read_every: int = 1,
    on_step: Callable[[Step], None] = lambda step: None,
    watch: Watch | None = None,
    best: Best | None = None,
) -> Summary:
    """Train to the last step and leave the model pruned to its final density.

    With no steps the model is pruned and evaluated, no more.

    evaluate_after: numbers of done steps (below `steps`) after which to evaluate; the end is always evaluated.
    read_every: after so many steps an accelerator is asked for the loss, and whether all is well; a CPU always is.
    best: end as the model of the best evaluation at the final density; None: as the last.
    Raises TrainingDiverged when the loss, the gradient or a score is NaN or infinite.
    """
    watch = watch or Watch()
    start, steps, layers = watch.start, training.steps, training.layers
    history = list(start.history)
    started = time.perf_counter() - start.seconds
    training.health.loss = start.loss

    def position(done: int, density: float, evaluated: bool = True) -> Position:
        seconds = time.perf_counter() - started
        return Position(done, density, training.health.loss, seconds, tuple(history), evaluated)

    def finish_step(done: int, density: float) -> None:
        metrics: dict[str, float] = {}
        if done in evaluate_after or done % read_every == 0:
            training.health.read()
        if done in evaluate_after:
            candidate = best if _is_final(density, training.final_density) or not layers else None
            if candidate is not None and layers:
                # As at the end: masks of the scores after the step. The schedule is asked, as in every step.
                training.choose_masks(done - 1)
            # W' is that of before the optimiser's step, or holds drawn gates, in the step's precision.
            show_masks(layers)
            with watch.evaluating(position(done, density, evaluated=False)):
                metrics = evaluate().metrics
            history.append((done, metrics))
            if candidate is not None:
                candidate.offer(done, metrics)
        on_step(Step(done, steps, density, training.health.loss, metrics))
        watch.after_step(position(done, density))

    training.model.train()
    if not start.evaluated:
        finish_step(start.step, start.density)
    for step, micro_batches in enumerate(_repeat(batches, steps, watch), start.step):
        training.step(step, micro_batches)
        finish_step(step + 1, training.density(step))
    training.finish()
    final = training.final_density if layers else FULL
    with watch.evaluating(position(steps, final, evaluated=False)):
        evaluation = evaluate()
    history.append((steps, evaluation.metrics))
    on_step(Step(steps, steps, final, training.health.loss, evaluation.metrics))
    if best is not None:
        best.offer(steps, evaluation.metrics)
        if best.step != steps:
            best.put_back()
            evaluation = evaluate()
    return Summary(
        evaluation, history, time.perf_counter() - started, training.health.loss, best, training.passes.note
    )


def _is_final(density: float, final: float) -> bool:
    """Whether a mask of this density keeps as many weights as the finished one (`kept_weights` rounds alike)."""
    return round(density, 12) == round(final, 12)


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
