"""What a run needs before it begins: steps, room on the disk, a folder that can be written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from smpcli.errors import UserError
from smpcli.files import cannot_write

if TYPE_CHECKING:
    from smpcli.settings import Settings

# Bytes of a number in float32.
FLOAT = 4


def count_steps(settings: Settings, examples: int) -> int:
    """Training steps: max_steps, or epochs times batches an epoch (the last batch may be smaller).

    0 where there is nothing to train, whatever length was asked for.
    """
    if not settings.trains:
        return 0
    if settings.run.max_steps is not None:
        return settings.run.max_steps
    assert settings.run.epochs is not None, "resolve() fills it in"
    batches = math.ceil(examples / settings.run.batch_size)
    return max(1, round(settings.run.epochs * batches))


def disk_need(
    trained: int,
    kept_values: int,
    prunable: int,
    checkpoint_every: int | str,
    select_best: bool = False,
    running: int = 0,
) -> int:
    """Bytes that a run takes at most while it goes on.

    trained: numbers that are trained, scores and all; kept_values: trained weights that the result holds;
    running: numbers that the method keeps of gradients. A checkpoint has these, each trained number with AdamW's two
    moments, and two sets of masks, and with `select_best` the
    best model, too; at a time there are the best, the last, and the one being written.
    """
    checkpoint = FLOAT * (3 * trained + running) + 2 * prunable // 8
    checkpoint += FLOAT * kept_values + prunable // 8 if select_best else 0
    return checkpoint * (3 if checkpoint_every != 0 else 2) + FLOAT * kept_values + prunable // 8 + 2**20


def check_output(output: Path) -> None:
    """Refuse an output folder that can't be written before anything long begins; makes nothing."""
    import os

    try:
        existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    except OSError as error:
        raise cannot_write(output, error) from error
    if not existing.is_dir():
        raise UserError(f"can't write {output}: {existing} is a file", "choose another place with --output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"can't write {output}: permission denied", "choose another place with --output")
