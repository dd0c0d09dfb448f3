"""One small file a task: packed mask and head, over a base model that many tasks share."""

from __future__ import annotations

from pathlib import Path

import torch

from smpcli.errors import UserError
from smpcli.export.formats import CHECKED_EXAMPLES, Exported, check_difference
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import build_model
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.restore import apply_masks, place_tensors, require_base
from smpcli.results.masks import pack, read_described, write_described
from smpcli.training.recompute import Reopened

SUFFIX = ".smpmask"
FORMAT = "smp-task"
VERSION = 1
CHECKED_BATCH = 32


def write(run: Reopened, target: Path) -> Exported:
    """Write the file, build the model again from it and the base, compare logits, put the file in place."""
    settings = run.settings
    if settings.pruner.trains_weights:
        raise UserError(
            f"method '{settings.pruner.name}' trains weights, which a mask alone doesn't hold: use --format hf"
        )
    packed, shapes = pack(run.directory.read_masks())
    head = run.directory.read_tensors("head.safetensors") if run.directory.has("head.safetensors") else {}
    result = run.directory.result
    about = {
        "format": FORMAT,
        "version": VERSION,
        "shapes": shapes,
        "task": settings.task.name,
        "labels": run.labels,
        "method": settings.pruner.name,
        "model": settings.model,
        "base_digest": result.model.digest,
        "head": run.model.head,
        "metrics": result.metrics,
        "remaining": result.run.remaining,
    }
    fresh = target.with_name(f".{target.name}.unchecked.tmp")
    try:
        write_described(fresh, {**packed, **head}, about)
        difference, examples = _verify(run, fresh)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    return Exported(target, "mask", target.stat().st_size, difference, examples)


def _verify(run: Reopened, file: Path) -> tuple[float, int]:
    """Largest logit difference between the run's model and one rebuilt from the file."""
    rebuilt = _load(run, file)
    dev = next(iter(run.dev.values()))
    indices = range(min(CHECKED_EXAMPLES, len(dev)))
    difference = largest = 0.0
    with torch.no_grad():
        for start in range(0, len(indices), CHECKED_BATCH):
            inputs, _ = dev.collate(indices[start : start + CHECKED_BATCH])
            wanted = run.model(**inputs)
            difference = max(difference, float((rebuilt(**inputs) - wanted).abs().max()))
            largest = max(largest, float(wanted.abs().max()))
    check_difference(difference, largest)
    return difference, len(indices)


def _load(run: Reopened, file: Path) -> TaskModel:
    """The base model with the file's masks and head applied."""
    masks, head, about = read_described(file, FORMAT, VERSION)
    settings = run.settings
    model = build_model(settings.run, settings.task, run.labels, load_tokenizer(settings.model))
    require_base(model, about["base_digest"], settings.model, file)
    place_tensors(model, head, masks, file)
    apply_masks(model, masks, file)
    return model.eval()
