"""One small file a task: mask (in about its entropy) and head, over a base model that many tasks share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from smpcli.errors import UserError
from smpcli.evaluation.recompute import Reopened
from smpcli.evaluation.restore import apply_masks, place_tensors, require_base
from smpcli.export.about import About, describe, parse_about
from smpcli.export.formats import Exported
from smpcli.export.ready import Ready
from smpcli.export.verify import staged, verify
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import rebuild
from smpcli.modeling.heads import TaskModel
from smpcli.runs.maskfile import compress, is_described, read_described, write_described

SUFFIX = ".smpmask"
FORMAT = "smp-task"
VERSION = 2


def write(run: Reopened, target: Path) -> Exported:
    """Write the file, verify it in a new process, put it in place."""
    pruner = run.settings.pruner
    if pruner.trains_weights:
        raise UserError(f"method '{pruner.name}' trains weights, which a mask alone doesn't hold", "use --format hf")
    payloads, shapes, codes = compress(run.directory.read_masks())
    head = run.directory.read_tensors("head.safetensors") if run.directory.has("head.safetensors") else {}
    about = describe(run, FORMAT, VERSION).model_dump(mode="json")
    with staged(target) as fresh:
        write_described(fresh, {**payloads, **head}, {**about, "shapes": shapes, "codes": codes})
        verified = verify(fresh, run)
        return Exported(target, "mask", fresh.stat().st_size, verified)


def is_one(path: Path) -> bool:
    return path.is_file() and is_described(path, FORMAT)


@dataclass(frozen=True)
class StoredTask:
    """What a mask file holds: masks (bool) by matrix, the head's tensors by name, and its description."""

    path: Path
    about: About
    masks: dict[str, Tensor]
    head: dict[str, Tensor]


def read(path: Path) -> StoredTask:
    """Read and check a mask file; the base model isn't touched. Raises UserError."""
    masks, head, raw = read_described(path, FORMAT, VERSION)
    return StoredTask(path, parse_about(raw, path, FORMAT, VERSION), masks, head)


def build_base(task: StoredTask, name: str, tokenizer: Any) -> TaskModel:
    """The base model that a mask file is for, dense and without the task's head. Raises UserError for another one."""
    about = task.about
    built = rebuild(name, tokenizer, *about.form)
    require_base(built, about.base_digest, name, task.path)
    return built.eval()


def load(path: Path, model: str | None = None) -> Ready:
    """The base model with the file's masks and head applied; `model` says where the base is, if elsewhere."""
    task = read(path)
    about, name = task.about, model or task.about.model
    tokenizer = load_tokenizer(name)
    built = build_base(task, name, tokenizer)
    if missing := built.own_parameters().keys() - task.head.keys():
        raise UserError(f"damaged mask file {path}: it lacks {min(missing)}")
    place_tensors(built, task.head, task.masks, path)
    apply_masks(built, task.masks, path)
    return Ready.of(about, built, tokenizer)
