"""Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): the student also learns a teacher's answers.

The teacher's logits of the training set are computed once, before training, and travel beside the labels. It has no
dropout, so a second epoch would compute the same again; and once they are there it leaves the memory, and may have
another tokenizer than the student. With fewer steps than an epoch, it is asked only what training will see.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, mse_loss, pad

from smpcli.encoding.batches import Encoded, check_encoded, chunks, encode, training_order
from smpcli.errors import UserError
from smpcli.evaluation.evaluate import EVALUATION_BATCH
from smpcli.runs.schema import TeacherInfo
from smpcli.tasks.examples import Examples
from smpcli.training.objective import Objective, task_objective
from smpcli.training.teacher import Teacher, load_teacher

if TYPE_CHECKING:
    from smpcli.settings import Settings
    from smpcli.tasks.data import TaskData

# A logit that no softmax sees, and that stays finite where -inf would make 0 * inf.
NEVER = -1e4


# -- the loss --------------------------------------------------------------------------------------------


def divergence(student: Tensor, teacher: Tensor, temperature: float, kind: str) -> Tensor:
    """T^2 KL between two softmaxes at temperature T over the last dimension, averaged over all others; a scalar.

    kind: "reverse" is KL(student || teacher), as the SMP paper writes it; "forward" is KL(teacher || student),
    Hinton's, whose gradient is that of a cross entropy with soft labels.
    """
    of_student, of_teacher = (log_softmax(logits / temperature, -1) for logits in (student, teacher))
    reference, measured = (of_student, of_teacher) if kind == "reverse" else (of_teacher, of_student)
    # torch's order: the target is the distribution that the expectation is taken over.
    pointwise = kl_div(measured, reference, reduction="none", log_target=True)
    return temperature**2 * pointwise.sum(-1).mean()


def distilled_objective(task: str, weight: float, temperature: float, kind: str) -> Objective:
    """(1 - weight) * task loss + weight * distillation loss, of labels that `carry` put the teacher's logits beside.

    task: "classification" (logits (batch, labels)); "span" (logits of start and end at each token, (batch, 2, length)
    or (batch, length, 2)); or "regression" (logits (batch, 1), and the squared error to the teacher's value).
    """
    plain = task_objective(task)

    def objective(inputs: dict[str, Tensor], logits: Tensor, carried: Tensor) -> Tensor:
        own = 2 if task == "span" else 1
        labels, teacher = carried[:, :own], carried[:, own:]
        if task == "regression":
            return (1 - weight) * plain(inputs, logits, labels[:, 0]) + weight * mse_loss(logits, teacher)
        student = logits
        if task == "span":
            # No probability for padding, which the teacher was never asked about.
            padding = ~inputs["attention_mask"].bool().unsqueeze(1)
            student = start_and_end(logits, padding.shape[-1]).masked_fill(padding, NEVER)
            teacher = teacher.reshape(len(teacher), 2, -1)[..., : padding.shape[-1]].masked_fill(padding, NEVER)
        ids = labels.long() if task == "span" else labels[:, 0].long()
        learned = divergence(student, teacher, temperature, kind)
        return (1 - weight) * plain(inputs, logits, ids) + weight * learned

    return objective


def start_and_end(logits: Tensor, length: int) -> Tensor:
    """A span model's logits as (batch, 2, length), also where they come as (batch, length, 2)."""
    return logits if logits.shape[1:] == (2, length) else logits.transpose(1, 2)


def carry(train_set: Encoded, logits: Tensor) -> Encoded:
    """The training set with each example's teacher logits (examples, …) behind its label, as one row of numbers."""
    labels = train_set.labels.float().reshape(len(train_set), -1)
    return dataclasses.replace(train_set, labels=torch.cat([labels, logits.reshape(len(train_set), -1)], 1))


# -- before training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distillation:
    """What a run with a teacher trains with, and what its result says of the teacher."""

    train_set: Encoded
    objective: Objective
    about: TeacherInfo


def distil(
    settings: Settings, data: TaskData, train_set: Encoded, tokenizer: Any, steps: int, device: torch.device
) -> Distillation:
    """Ask the teacher about the training set, of which `steps` batches are seen.

    train_set, tokenizer: the student's. Raises UserError for a teacher that can't be used.
    """
    from smpcli.modeling.backbone import digest_weights

    task = settings.task
    # Making its model draws random numbers; the student's run shall not depend on that.
    with torch.random.fork_rng():
        teacher = load_teacher(settings)
    asked = _in_teachers_words(settings, data, train_set, tokenizer, teacher)
    seen = np.arange(len(train_set))
    sampler = training_order(settings, train_set)
    if steps < len(sampler):
        seen = np.concatenate([np.asarray(batch) for batch in islice(iter(sampler), steps)])
    logits = teacher_logits(teacher.model.to(device), asked, seen, device)[:, teacher.order]
    about = TeacherInfo(
        name=str(settings.run.teacher),
        digest=digest_weights(teacher.model.state_dict()),
        weight=settings.run.teacher_weight,
        temperature=settings.run.teacher_temperature,
        kl=settings.run.teacher_kl,
    )
    objective = distilled_objective(task.kind, about.weight, about.temperature, about.kl)
    return Distillation(carry(train_set, logits), objective, about)


def _in_teachers_words(
    settings: Settings, data: TaskData, train_set: Encoded, tokenizer: Any, teacher: Teacher
) -> Encoded:
    """The training set as the teacher reads it; for spans it must read as the student does, token by token."""
    from smpcli.modeling.limits import limits_of
    from smpcli.modeling.reading import held_in_every, read_specials
    from smpcli.runs.rundir import is_run

    kind: str = settings.task.kind
    if kind == "span":
        alike = all(
            getattr(tokenizer, part) == getattr(teacher.tokenizer, part) for part in ("vocab", "model_input_names")
        )
        if not alike:
            raise UserError(
                f"teacher {settings.run.teacher} reads other tokens than {settings.run.model}, so their spans "
                "differ: take a teacher with the same tokenizer"
            )
        check_encoded(limits_of(teacher.model, train_set.columns), [train_set], "take a teacher with more positions")
        return train_set
    length = min(settings.max_length, limits_of(teacher.model).positions or settings.max_length)
    assert isinstance(data.train, Examples)
    if not is_run(Path(str(settings.run.teacher))):  # a run reads as it did
        read_specials(teacher.tokenizer, held_in_every(teacher.tokenizer, data.train.whole_texts()))
    asked = encode(teacher.tokenizer, data.train, length, kind == "regression")
    check_encoded(limits_of(teacher.model, asked.columns), [asked])
    return asked


@torch.no_grad()
def teacher_logits(model: nn.Module, encoded: Encoded, wanted: np.ndarray, device: torch.device) -> Tensor:
    """Logits of the wanted examples in float32 on the CPU; all others are NaN, so that no use of one goes unseen.

    Returns (examples, labels), or for spans (examples, 2, longest), padded with a logit that no softmax sees.
    """
    order = wanted[np.argsort(encoded.lengths[wanted], kind="stable")]
    longest = int(encoded.lengths.max())
    found: Tensor | None = None
    for indices in chunks(order, EVALUATION_BATCH):
        inputs, _ = encoded.collate(indices.tolist())
        logits = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).float().cpu()
        if logits.ndim == 3:
            logits = start_and_end(logits, inputs["input_ids"].shape[1])
            logits = pad(logits, (0, longest - logits.shape[-1]), value=NEVER)
        if found is None:
            found = torch.full((len(encoded), *logits.shape[1:]), torch.nan)
        found[torch.from_numpy(indices)] = logits
    assert found is not None
    return found
