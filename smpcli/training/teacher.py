"""Where a teacher comes from: a run of ours or a Hugging Face checkpoint; its labels are matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from smpcli.errors import UserError, one_line
from smpcli.files import is_folder
from smpcli.modeling.build import label_names, label_order, pad_as_tokenizer, stock_class, stock_form

if TYPE_CHECKING:
    from smpcli.modeling.backbone import Loaded
    from smpcli.settings import Settings
    from smpcli.tasks.task import Task

#: What a recipe says for "name your own": fine for a dry run, refused by a run.
WANTED = "???"


@dataclass(frozen=True)
class Teacher:
    """order: for each of the task's labels, the column of the teacher's logits that stands for it."""

    model: nn.Module
    tokenizer: Any
    order: list[int]


def match_labels(theirs: Sequence[str], ours: Sequence[str], name: str) -> list[int]:
    """For each of our labels, the teacher's column of that name; case, spaces, - and _ don't count.

    Raises UserError where the names are not the same ones: nothing is guessed from the order.
    """
    order = label_order(theirs, ours)
    if order is not None:
        return order
    raise UserError(
        one_line(f"teacher {one_line(name, 80)} has the labels {_listed(theirs)}, the task {_listed(ours)}"),
        "take a teacher of the same labels, or name them in its config.json (id2label)",
    )


def _listed(labels: Sequence[str]) -> str:
    return one_line(", ".join(labels[:4]) + (", …" if len(labels) > 4 else ""), 60) or "none"


def check_teacher(settings: Settings, local_only: bool = False) -> list[int] | None:
    """Refuse a teacher that doesn't know the task's labels, by names alone, before anything is loaded.

    Returns its columns in the task's order; None where that can't be known without a download (`local_only`).
    """
    from smpcli.modeling.backbone import check_base, load_config, model_path
    from smpcli.runs.rundir import RunDir, is_run

    name, task = settings.run.teacher, settings.task
    assert name is not None
    kind: str = task.kind
    if name == WANTED:
        raise UserError(
            "this recipe distils from a teacher of your own",
            f"make one with `smp finetune --task {task.name} --model {settings.run.model}`, then add --set "
            "teacher=ITS_FOLDER",
        )
    if is_run(Path(name)):
        other = _run_settings(RunDir.open(Path(name))).task
        if other.kind != kind:
            raise UserError(f"teacher {name} is of a {other.kind} task, this one is {kind}", "take another teacher")
        return _columns(task, other.labels, name)
    # What looks like a folder and isn't one is wrong whether or not the hub is asked.
    model_path(name)
    try:
        config = load_config(name, local_only=local_only)
    except UserError:
        if local_only and not is_folder(Path(name)):
            return None
        raise
    if local_only and (found := check_base(stock_class(kind), name, config)) is not None:
        _require_head(found, name, kind)
    names = label_names(config)
    if task.traits.labels == "numbers" and len(names) != 1:
        raise UserError(
            f"teacher {name} has {len(names)} labels where '{task.name}' asks for one number", "take another teacher"
        )
    return _columns(task, names, name)


def _columns(task: Task, theirs: Sequence[str], name: str) -> list[int]:
    """Which of the teacher's outputs stand for the task's."""
    return match_labels(theirs, task.labels, name) if task.labels else list(range(len(task.outputs)))


def _run_settings(directory: Any) -> Settings:
    from smpcli.settings import resolve

    return resolve(flags=directory.settings)


def load_teacher(settings: Settings) -> Teacher:
    """The teacher in evaluation mode, from a run's folder or a Hugging Face checkpoint. Raises UserError."""
    from smpcli.evaluation.restore import restore
    from smpcli.modeling.backbone import load_base, load_config, load_tokenizer
    from smpcli.modeling.padding import check_padding
    from smpcli.runs.rundir import RunDir, is_run

    name, task = settings.run.teacher, settings.task
    assert name is not None
    order = check_teacher(settings)
    assert order is not None
    if is_run(Path(name)):
        directory = RunDir.open(Path(name))
        other = _run_settings(directory)
        model, tokenizer = restore(directory, other, other.task.labels)
        return Teacher(model, tokenizer, order)
    kind: str = task.kind
    config, tokenizer = load_config(name), load_tokenizer(name)
    pad_as_tokenizer(config, tokenizer)
    loaded = load_base(stock_class(kind), name, config)
    _require_head(loaded, name, kind)
    made = stock_form(loaded.model, kind, "classifier", set())
    check_padding(made, config.model_type, tokenizer)
    return Teacher(made.eval(), tokenizer, order)


def _require_head(loaded: Loaded, name: str, kind: str) -> None:
    if loaded.missing:
        raise UserError(
            f"teacher {name} has no trained head for {kind} (its weights lack {min(loaded.missing)})",
            "take a fine-tuned checkpoint, or a run of `smp finetune`",
        )
