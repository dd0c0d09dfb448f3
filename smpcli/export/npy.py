"""The mask alone, as SMP's authors release theirs: what their code reads, and `smp eval --mask`."""

from __future__ import annotations

from pathlib import Path

import torch

from smpcli.errors import UserError
from smpcli.evaluation.recompute import Reopened
from smpcli.export.formats import Exported
from smpcli.export.ready import Ready
from smpcli.export.verify import staged
from smpcli.runs.released_masks import read_npy, write_npy

SUFFIX = ".npy"
MAGIC = b"\x93NUMPY"


def write(run: Reopened, target: Path) -> Exported:
    """Write the file, read it back, compare every bit with the run's masks, put it in place."""
    settings = run.settings
    if settings.pruner.trains_weights:
        raise UserError(
            f"method '{settings.pruner.name}' trains weights, which a mask alone doesn't hold", "use --format hf"
        )
    masks = run.directory.read_masks()
    with staged(target) as fresh:
        write_npy(fresh, masks)
        found = read_npy(fresh, {name: tuple(mask.shape) for name, mask in masks.items()})
        if not all(torch.equal(found[name], mask) for name, mask in masks.items()):
            raise RuntimeError("the masks that were written are not the run's")
        head = run.model.head
        note = () if head == "words" else (f"it holds the mask alone: the run's {head} head is not in it",)
        # Every bit was compared, so no logits were.
        return Exported(target, "npy", fresh.stat().st_size, None, remarks=note)


def is_one(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def load(path: Path, model: str | None = None) -> Ready:
    """A mask alone is not a model: always a UserError."""
    raise UserError(
        f"{path} holds a mask alone, neither its base model nor its task",
        "`smp eval --mask` takes it, and `smp export RUN --format mask` makes one that loads",
    )
