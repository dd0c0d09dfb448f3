"""Evaluating a mask that no run of ours made: the authors' .npy on a base model, with the label words' head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smpcli.errors import UserError


@dataclass(frozen=True)
class Released:
    """kept of prunable weights remain. warnings: what is odd about the predictions."""

    path: Path
    metrics: dict[str, float]
    kept: int
    prunable: int
    warnings: list[str]


def evaluate_mask(file: Path, model: str, task: str, data_dir: Path | None = None, device: str = "auto") -> Released:
    """The task's dev metrics of a base model pruned by an .npy mask.

    The mask's size is checked against the model's configuration before data or weights are loaded. Raises UserError.
    """
    from smpcli.settings import resolve

    flags = {"task": task, "model": model, "head": "words", "device": device}
    settings = resolve(flags=flags | ({"data_dir": str(data_dir)} if data_dir else {}))
    import torch

    from smpcli.modeling.backbone import load_config, load_tokenizer
    from smpcli.modeling.build import build_model, outline
    from smpcli.modeling.layers import find_prunable
    from smpcli.modeling.restore import apply_masks
    from smpcli.results.npy import read_npy
    from smpcli.tasks.data import load_dev
    from smpcli.training.device import make_accelerator
    from smpcli.training.encoding import encode_rows
    from smpcli.training.evaluate import evaluate

    if not settings.task.words:
        raise UserError(f"task '{settings.task.name}' names no label words, and a mask alone is read by them")
    config = load_config(settings.model)
    matrices = find_prunable(outline(settings.run, settings.task, config), config)
    masks = read_npy(file, {matrix.name: tuple(matrix.module.weight.shape) for matrix in matrices})
    data = load_dev(settings.task, Path(settings.data_dir) if settings.data_dir else None)
    tokenizer = load_tokenizer(settings.model)
    where = make_accelerator(settings.device).device
    pruned = build_model(settings.run, settings.task, data.labels, tokenizer)
    apply_masks(pruned, masks, file)
    regression = settings.task.kind == "regression"
    dev = {split: encode_rows(tokenizer, part, settings) for split, part in data.dev.items()}
    found = evaluate(pruned.to(where).eval(), dev, settings.task.metrics, regression, torch.device(where))
    kept = sum(int(mask.sum()) for mask in masks.values())
    prunable = sum(mask.numel() for mask in masks.values())
    return Released(file, found.metrics, kept, prunable, found.warnings(data.labels))
