"""A task's rows as a model takes them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from smpcli.encoding.batches import Encoded
from smpcli.encoding.cut import Cut
from smpcli.kinds import KINDS

if TYPE_CHECKING:
    from smpcli.settings import Settings
    from smpcli.tasks.data import Rows

# What a dry run looks at of a set: tokenising all of a large one takes minutes.
SAMPLE = 2_000


def encode_rows(tokenizer: Any, rows: Rows, settings: Settings) -> Encoded:
    """Tokenise the rows of any kind of task. Of questions there may be more windows than rows."""
    return KINDS[settings.task.kind].encode(tokenizer, rows, settings.max_length, settings.stride)


def foresee_cut(tokenizer: Any, rows: Rows, settings: Settings) -> Cut:
    """What `encode_rows` will cut off, by all rows, or in a large set by SAMPLE of them; nothing is cached."""
    picked = rows
    if len(rows) > SAMPLE:
        # Files are often sorted by label or length: from end to end.
        picked = rows.take(np.linspace(0, len(rows) - 1, SAMPLE).astype(int).tolist())
    cut = KINDS[settings.task.kind].cut(tokenizer, picked, settings.max_length)
    return cut if picked is rows else dataclasses.replace(cut, of=len(rows))
