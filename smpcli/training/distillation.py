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
from torch.nn.functional import kl_div, log_softmax, pad

from smpcli.encoding.batches import Encoded, check_encoded, chunks, training_order
from smpcli.errors import UserError
from smpcli.kinds import KINDS
from smpcli.kinds.span import NEVER
from smpcli.runs.schema import TeacherInfo
from smpcli.tasks.traits import TRAITS
from smpcli.training.objective import Objective, task_objective
from smpcli.training.teacher import Teacher, load_teacher

if TYPE_CHECKING:
    from smpcli.settings import Settings
    from smpcli.tasks.data import TaskData


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

    task: the kind of task; kind: of divergence.
    """
    plain, of_kind = task_objective(task), KINDS[task]

    def objective(inputs: dict[str, Tensor], logits: Tensor, carried: Tensor) -> Tensor:
        labels, teacher = of_kind.uncarried(carried)
        learned = of_kind.distilled(inputs, logits, teacher, lambda a, b: divergence(a, b, temperature, kind))
        return (1 - weight) * plain(inputs, logits, labels) + weight * learned

    return objective


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
    """The training set as the teacher reads it; a head at every token must read as the student's does."""
    from smpcli.modeling.limits import limits_of
    from smpcli.modeling.reading import held_in_every, read_specials
    from smpcli.runs.rundir import is_run

    kind = settings.task.kind
    if TRAITS[kind].every_token:
        alike = all(
            getattr(tokenizer, part) == getattr(teacher.tokenizer, part) for part in ("vocab", "model_input_names")
        )
        if not alike:
            raise UserError(
                f"teacher {settings.run.teacher} reads other tokens than {settings.run.model}, so their spans differ",
                "take a teacher with the same tokenizer",
            )
        check_encoded(limits_of(teacher.model, train_set.columns), [train_set], "take a teacher with more positions")
        return train_set
    length = min(settings.max_length, limits_of(teacher.model).positions or settings.max_length)
    if not is_run(Path(str(settings.run.teacher))):  # a run reads as it did
        read_specials(teacher.tokenizer, held_in_every(teacher.tokenizer, data.train.whole_texts()))
    asked = KINDS[kind].encode(teacher.tokenizer, data.train, length, None)
    check_encoded(limits_of(teacher.model, asked.columns), [asked])
    return asked


@torch.no_grad()
def teacher_logits(model: nn.Module, encoded: Encoded, wanted: np.ndarray, device: torch.device) -> Tensor:
    """Logits of the wanted examples in float32 on the CPU; all others are NaN, so that no use of one goes unseen.

    Returns (examples, outputs), or (examples, outputs, longest), padded with a logit that no softmax sees.
    """
    order = wanted[np.argsort(encoded.lengths[wanted], kind="stable")]
    longest = int(encoded.lengths.max())
    found: Tensor | None = None
    for indices in chunks(order, Encoded.evaluation_batch):
        inputs, _ = encoded.collate(indices.tolist())
        logits = model(**{name: tensor.to(device) for name, tensor in inputs.items()}).float().cpu()
        if logits.ndim == 3:
            logits = pad(logits, (0, longest - logits.shape[-1]), value=NEVER)
        if found is None:
            found = torch.full((len(encoded), *logits.shape[1:]), torch.nan)
        found[torch.from_numpy(indices)] = logits
    assert found is not None
    return found
