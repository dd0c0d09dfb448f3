"""Everything that a run trains with, assembled: tokenised data, model with head, masked layers, optimiser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn

from pruners.base import Pruner
from pruners.masking import attach
from pruners.masks.layer import LayerStatistics, MaskedLayer
from pruners.masks.stack import stack_layers, stacks_of
from pruners.masks.trial import confirm_narrow
from smpcli.encoding.batches import (
    Encoded,
    LengthBuckets,
    check_encoded,
    chunks,
    tokens_together,
    training_loader,
    training_order,
)
from smpcli.encoding.cut import Cut
from smpcli.errors import UserError
from smpcli.evaluation.evaluate import Evaluation, evaluate
from smpcli.kinds import KINDS, Kind
from smpcli.kinds.rows import encode_rows
from smpcli.modeling.attention import confirm_whole_mask
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import build_model
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.layers import masked_layers
from smpcli.modeling.limits import limits_of
from smpcli.modeling.reading import held_in_every, read_alike, read_specials, remark
from smpcli.training.best import Best
from smpcli.training.checkpoint_contents import State
from smpcli.training.distillation import distil
from smpcli.training.loop import Summary, Training, train
from smpcli.training.needs import count_steps
from smpcli.training.objective import Objective, task_objective
from smpcli.training.optimizer import make_optimizer, trained_weights
from smpcli.training.passes import LENGTHS, CudaGraphs
from smpcli.training.processes import check_batch, start_alike
from smpcli.training.progress import Step, TrainingDiverged
from smpcli.training.statistics import input_statistics
from smpcli.training.teacher import check_teacher

if TYPE_CHECKING:
    from smpcli.runs.schema import TeacherInfo
    from smpcli.settings import Settings
    from smpcli.tasks.data import TaskData
    from smpcli.training.checkpoint import Checkpoints

# Batches of what prototypes are made of that input statistics are taken from.
STATISTICS_BATCHES = 10
SETUP_BATCH = 64


@dataclass
class Session:
    """A run in memory. `weights` are the trained weights, `layers` the masked matrices (none for dense).

    teacher: what the result says of the teacher, None without one; special_tokens: those that each training text
    holds, which are read as such (`modeling/reading.py`); remark: what is worth saying of them.
    """

    settings: Settings
    accelerator: Accelerator
    model: TaskModel
    pruner: Pruner
    layers: list[MaskedLayer]
    weights: list[nn.Parameter]
    train_set: Encoded
    objective: Objective
    teacher: TeacherInfo | None
    dev: dict[str, Encoded]
    base_digest: str
    prunable: int
    steps: int
    special_tokens: list[str] | None = None
    remark: str | None = None

    @property
    def cut(self) -> dict[str, Cut]:
        """What texts lost that were too long, by set: "train", and each dev set."""
        sets = {"train": self.train_set, **self.dev}
        return {name: encoded.cut for name, encoded in sets.items() if encoded.cut is not None}

    def evaluate(self) -> Evaluation:
        task = self.settings.task
        return evaluate(self.model, self.dev, task.metrics, task.kind, self.accelerator.device)

    def state(self, optimizer: torch.optim.Optimizer) -> State:
        """What training changes: of the model what is trained outside the masked matrices, and the task's own."""
        masked = {id(layer.effective) for layer in self.layers}
        parameters = {
            name: parameter
            for name, parameter in self.model.backbone.named_parameters()
            if id(parameter) not in masked and (parameter.requires_grad or name in self.model.own_names)
        }
        return State(parameters, self.layers, optimizer, self.accelerator.device)

    def training(self) -> Training:
        """What the loop trains, on every process; the optimiser is a new one."""
        run = self.settings.run
        made = make_optimizer(self.pruner, self.weights, self.layers)
        # Processes exchange no gradients where there are none.
        model, optimizer = self.accelerator.prepare(self.model, made) if self.steps else (self.model, made)
        return Training(
            model,
            self.pruner,
            self.layers,
            self.weights,
            optimizer,
            self.objective,
            self.accelerator,
            steps=self.steps,
            final_density=1 - run.sparsity,
            precision=run.precision,
            max_grad_norm=run.max_grad_norm,
            recording=CudaGraphs(self.accelerator.device) if self.recorded else None,
        )

    @property
    def recorded(self) -> bool:
        """Whether the model's passes are recorded as CUDA graphs, as far as is known before the first."""
        run, accelerator = self.settings.run, self.accelerator
        # Without stacks W' is not always of one size. Passes that are computed twice ask for the state of chance.
        return (
            run.graph == "auto"
            and accelerator.device.type == "cuda"
            and accelerator.num_processes == 1
            and not run.gradient_checkpointing
            and (not self.layers or stacks_of(self.layers) is not None)
        )

    def batches(self, order: LengthBuckets) -> Any:
        """A loader of this process's part of each batch, as micro-batches on the device."""
        accelerator = self.accelerator
        part, parts = accelerator.process_index, accelerator.num_processes
        together = tokens_together(accelerator.device)
        # Only from pinned memory does a batch reach a GPU without being waited for.
        pinned = accelerator.device.type == "cuda"
        workers = self.settings.run.data_workers
        multiple = LENGTHS if self.recorded else 1
        loader = training_loader(self.train_set, order, part, parts, workers, together, pinned, multiple)
        # The loader has divided the batches itself; Accelerate would make them more, not smaller.
        return prepare_data_loader(loader, accelerator.device, 1, 0, put_on_device=True, non_blocking=pinned)

    def train(
        self, on_step: Callable[[Step], None], checkpoints: Checkpoints | None = None, read_every: int = 1
    ) -> Summary:
        """Run the loop from its start, or where `checkpoints` say; then the model has exactly the density asked for.

        read_every: as in `train`. Raises TrainingDiverged, with the step's examples and the last checkpoint.
        """
        settings = self.settings
        training = self.training()
        state = self.state(training.optimizer)
        chooses = settings.run.select == "best" and self.steps
        best = Best(state, self.pruner, settings.task.metric) if chooses else None
        if checkpoints is not None:
            checkpoints.attach(state, training.health, best)
        order = training_order(settings, self.train_set, checkpoints.start.step if checkpoints is not None else 0)
        evaluations = settings.run.evaluations
        try:
            return train(
                training,
                self.batches(order),
                evaluate=self.evaluate,
                evaluate_after={self.steps * part // evaluations for part in range(1, evaluations)} - {0},
                read_every=read_every,
                on_step=on_step,
                watch=checkpoints,
                best=best,
            )
        except TrainingDiverged as error:
            raise TrainingDiverged(error.step, error.reason, _where(order.batch(error.step), checkpoints)) from None


def _where(examples: list[int], checkpoints: Checkpoints | None) -> str:
    """Training examples (their index, from 0) that a step was about, and what there is to go on from."""
    shown = ", ".join(map(str, sorted(examples)[:6])) + (f", … ({len(examples)})" if len(examples) > 6 else "")
    last = checkpoints.last if checkpoints is not None else None
    kept = f"the last good checkpoint is step {last[0]}" if last else "there is no checkpoint before it"
    return f", in the batch of training examples {shown}; {kept}"


def prepare(
    settings: Settings, data: TaskData, accelerator: Accelerator, phase: Callable[[str], None] = lambda name: None
) -> Session:
    """Tokenise, load the model, make its head, find the prunable layers, attach the method to them, ask a teacher."""
    check_batch(settings.run.batch_size, accelerator)
    if settings.run.teacher:
        check_teacher(settings)
    tokenizer = load_tokenizer(settings.run.model)
    held = held_in_every(tokenizer, data.train.whole_texts())
    read_specials(tokenizer, held)
    train_set = encode_rows(tokenizer, data.train, settings)
    dev = {split: encode_rows(tokenizer, part, settings) for split, part in data.dev.items()}
    session = assemble(settings, data.labels, tokenizer, train_set, dev, accelerator, held)
    session.remark = remark(tokenizer, data.train.whole_texts(), held, session.model.mask_id is not None)
    if settings.run.teacher:
        phase("teacher")
        distilled = distil(settings, data, train_set, tokenizer, session.steps, accelerator.device)
        session.train_set, session.objective, session.teacher = (
            distilled.train_set,
            distilled.objective,
            distilled.about,
        )
    return session


def assemble(
    settings: Settings,
    labels: list[str],
    tokenizer: Any,
    train_set: Encoded,
    dev: dict[str, Encoded],
    accelerator: Accelerator,
    special_tokens: list[str] | None = None,
    stacked: bool | None = None,
) -> Session:
    """The same from tokenised data, without a teacher.

    stacked: compute as an accelerator does, matrices of one size together, without a question to the device (None:
    where there is one).
    """
    task, device = settings.task, accelerator.device
    model = build_model(settings.run.spec, task, labels, tokenizer).to(device)
    read_alike(model, tokenizer, special_tokens)
    check_encoded(limits_of(model, train_set.columns), [train_set, *dev.values()])
    base_digest = model.base_digest()
    kind = KINDS[task.kind]
    setup = list(_setup_batches(kind, train_set, settings.run.seed, device))
    if model.head == "prototype":
        kind.set_prototypes(model, setup, settings.run.head_scale)
    pruner = settings.pruner(settings.method)
    layers = masked_layers(model.backbone, model.config)
    prunable = sum(layer.weight.numel() for layer in layers)
    if not pruner.prunes:
        layers = []
    pruner.check(layers)
    statistics: dict[str, LayerStatistics] = {}
    if layers and pruner.needs_statistics:
        spread = setup[:: max(1, len(setup) // STATISTICS_BATCHES)]
        statistics = input_statistics(model, layers, (inputs for inputs, _ in spread))
    attach(pruner, layers, statistics)
    start_alike(layers, accelerator, settings.run.seed)
    weights = trained_weights(pruner, model, layers)
    compute = _forward(model, train_set, device)
    _check_reached(layers, compute, model.config.model_type)
    if layers and not pruner.trains_weights and getattr(pruner.settings, "structure", 1.0) != 1:
        confirm_narrow(layers, compute)
    # Counts are in float64 there, which Apple's devices don't have.
    stacked = device.type not in ("cpu", "mps") if stacked is None else stacked
    if stacked:
        confirm_whole_mask(model, compute)
    if stacked and pruner.stacks(layers):
        stack_layers(layers)
        # W lies elsewhere now.
        weights = trained_weights(pruner, model, layers)
    return Session(
        settings=settings,
        accelerator=accelerator,
        model=model,
        pruner=pruner,
        layers=layers,
        weights=weights,
        train_set=train_set,
        objective=task_objective(task.kind),
        teacher=None,
        dev=dev,
        base_digest=base_digest,
        prunable=prunable,
        steps=count_steps(settings, len(train_set)),
        special_tokens=special_tokens,
    )


def _forward(model: TaskModel, train_set: Encoded, device: torch.device) -> Callable[[], Tensor]:
    """A forward pass in evaluation mode over the shortest and the longest training example."""
    lengths = train_set.lengths
    inputs, _ = train_set.collate([int(lengths.argmin()), int(lengths.argmax())])
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}

    def compute() -> Tensor:
        training = model.training
        logits: Tensor = model.eval()(**inputs)
        model.train(training)
        return logits

    return compute


def _check_reached(layers: list[MaskedLayer], compute: Callable[[], Tensor], model_type: str) -> None:
    """Refuse a model with matrices that no text reaches (another modality's, an encoder's beside a decoder).

    One kind of matrix counts as reached in any block, as of several experts a text reaches but some. Also refused is
    a model whose answers carry no gradient back to its matrices (Reformer's reversible blocks, behind frozen
    embeddings).
    """
    kinds = {layer.name: re.sub(r"\d+", "*", layer.kind) for layer in layers}
    reached: set[str] = set()
    hooks = [
        layer.module.register_forward_hook(lambda *_, name=layer.name: reached.add(kinds[name])) for layer in layers
    ]
    answers = compute()
    learns = answers.requires_grad or not any(layer.effective.requires_grad for layer in layers)
    for hook in hooks:
        hook.remove()
    advice = "choose a transformer such as bert, roberta, distilbert, electra or gpt2 with --model"
    unused = [layer.name for layer in layers if kinds[layer.name] not in reached]
    if unused:
        raise UserError(
            f"model type '{model_type}' can't be pruned: texts never reach {len(unused)} of its {len(layers)} "
            f"matrices (such as {unused[0]}), so their masks would mean nothing",
            advice,
        )
    if not learns:
        raise UserError(
            f"model type '{model_type}' can't be pruned: its answers pass no gradient on to its matrices", advice
        )


def _setup_batches(
    kind: Kind, train_set: Encoded, seed: int, device: torch.device
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Random training examples by length, for prototypes and input statistics."""
    order = np.random.default_rng([seed, 1]).permutation(len(train_set))
    chosen = kind.setup_examples(train_set.labels, order)
    chosen = chosen[np.argsort(train_set.lengths[chosen], kind="stable")]
    for indices in chunks(chosen, SETUP_BATCH):
        inputs, labels = train_set.collate(indices.tolist())
        yield {name: tensor.to(device) for name, tensor in inputs.items()}, labels
