"""The mask alone, as SMP's authors release theirs: what their code reads, and `smp eval --mask`."""

from __future__ import annotations

from pathlib import Path

import torch

from smpcli.errors import UserError
from smpcli.export.formats import Exported
from smpcli.results.npy import read_npy, write_npy
from smpcli.training.recompute import Reopened

SUFFIX = ".npy"


def write(run: Reopened, target: Path) -> Exported:
    """Write the file, read it back, compare every bit with the run's masks, put it in place."""
    settings = run.settings
    if settings.pruner.trains_weights:
        raise UserError(
            f"method '{settings.pruner.name}' trains weights, which a mask alone doesn't hold: use --format hf"
        )
    masks = run.directory.read_masks()
    fresh = target.with_name(f".{target.name}.unchecked")
    try:
        write_npy(fresh, masks)
        found = read_npy(fresh, {name: tuple(mask.shape) for name, mask in masks.items()})
        if not all(torch.equal(found[name], mask) for name, mask in masks.items()):
            raise RuntimeError("the masks that were written are not the run's")
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
    head = run.model.head
    note = "" if head == "words" else f"it holds the mask alone: the run's {head} head is not in it"
    # Every bit was compared, so no logits were.
    return Exported(target, "npy", target.stat().st_size, 0.0, 0, note)
