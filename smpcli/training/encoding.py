"""A task's rows as a model takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smpcli.tasks.squad import Questions
from smpcli.training.batches import Encoded, encode
from smpcli.training.spans import encode_questions

if TYPE_CHECKING:
    from smpcli.settings import Settings
    from smpcli.tasks.data import Rows


def encode_rows(tokenizer: Any, rows: Rows, settings: Settings) -> Encoded:
    """Tokenise the rows of any kind of task. Of questions there may be more windows than rows."""
    if isinstance(rows, Questions):
        return encode_questions(tokenizer, rows, settings.max_length, settings.stride)
    return encode(tokenizer, rows, settings.max_length, settings.task.kind == "regression")
