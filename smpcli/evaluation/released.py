"""Evaluating a mask that no run of ours made: the authors' .npy on a base model, with the label words' head."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smpcli.errors import UserError

if TYPE_CHECKING:
    from smpcli.encoding.cut import Cut
    from smpcli.tasks.task import Task


@dataclass(frozen=True)
class Released:
    """kept of prunable weights remain; words: those that stood for the task's outputs, by name.

    warnings: what is odd about the predictions; cut: what the texts of each dev set lose that are too long.
    """

    path: Path
    metrics: dict[str, float]
    kept: int
    prunable: int
    words: dict[str, str]
    warnings: list[str]
    cut: dict[str, Cut] = field(default_factory=dict)


def evaluate_mask(
    file: Path,
    model: str,
    task: str,
    data_dir: Path | None = None,
    device: str = "auto",
    words: Literal["task", "released"] | None = None,
) -> Released:
    """The task's dev metrics of a base model pruned by an .npy mask.

    words: the task's own label words, or those that the authors' files were trained with; a mask doesn't say, so
    where they differ it must be told. The mask's size is checked against the model's configuration before data or
    weights are loaded. Raises UserError.
    """
    from smpcli.settings import resolve

    flags = {"task": task, "model": model, "head": "words", "device": device}
    settings = resolve(flags=flags | ({"data_dir": str(data_dir)} if data_dir else {}))
    import torch

    from smpcli.device import make_accelerator
    from smpcli.encoding.batches import check_encoded
    from smpcli.evaluation.evaluate import evaluate
    from smpcli.evaluation.restore import apply_masks
    from smpcli.kinds.rows import encode_rows
    from smpcli.modeling.backbone import load_config, load_tokenizer
    from smpcli.modeling.build import build_model, outline
    from smpcli.modeling.layers import find_prunable
    from smpcli.modeling.limits import limits_of
    from smpcli.runs.released_masks import read_npy
    from smpcli.tasks.data import load_dev

    settings = dataclasses.replace(settings, task=_with_words(settings.task, words))
    config = load_config(settings.run.model)
    matrices = find_prunable(outline(settings.run.spec, settings.task, config), config)
    masks = read_npy(file, {matrix.name: tuple(matrix.module.weight.shape) for matrix in matrices})
    data = load_dev(settings.task, Path(settings.run.data_dir) if settings.run.data_dir else None)
    tokenizer = load_tokenizer(settings.run.model)
    where = make_accelerator(settings.run.device).device
    pruned = build_model(settings.run.spec, settings.task, data.labels, tokenizer)
    apply_masks(pruned, masks, file)
    dev = {split: encode_rows(tokenizer, part, settings) for split, part in data.dev.items()}
    columns = next(iter(dev.values())).columns
    check_encoded(limits_of(pruned, columns), dev.values(), "take a model with more positions")
    found = evaluate(pruned.to(where).eval(), dev, settings.task.metrics, settings.task.kind, torch.device(where))
    kept = sum(int(mask.sum()) for mask in masks.values())
    prunable = sum(mask.numel() for mask in masks.values())
    named = {name: settings.task.words[name] for name in settings.task.outputs}
    cut = {split: part.cut for split, part in dev.items() if part.cut is not None}
    return Released(file, found.metrics, kept, prunable, named, found.warnings(data.labels), cut)


def _with_words(task: Task, which: Literal["task", "released"] | None) -> Task:
    """The task with the label words that the mask is read by. Raises UserError where it has none, or that is open."""
    if not task.words:
        raise UserError(f"task '{task.name}' names no label words, and a mask alone is read by them")
    if which == "released":
        if not task.released_words:
            raise UserError(
                f"task '{task.name}' names no words of released masks",
                "leave --words out for its own, or add `released_words:` to it",
            )
        return task.model_copy(update={"words": task.released_words})
    if which is None and task.released_words not in ({}, task.words):
        theirs = ", ".join(f"{name} = {task.released_words[name]}" for name in task.outputs)
        raise UserError(
            f"the authors' masks for '{task.name}' were trained with other label words ({theirs})",
            "add --words released for a file of theirs, --words task for an export of yours",
        )
    return task
