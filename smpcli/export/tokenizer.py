"""The tokenizer that an export holds: it cuts and pads as training did, whatever it was last asked to do."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from smpcli.evaluation.recompute import Reopened
from smpcli.modeling.limits import limits_of

# What the last call, or the base's own files, said of cutting and padding; and of the machine that loaded them.
_STATE = ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of", "pad_token_type_id")
_SURROUNDINGS = ("auto_map", "is_local", "local_files_only")


def longest_text(run: Reopened) -> int:
    """Tokens that a text of the run's task is cut to: never more than the model has positions for."""
    wanted = run.settings.max_length
    return min(wanted, limits_of(run.model).positions or wanted)


def save_tokenizer(run: Reopened, folder: Path, inputs: Sequence[str] | None = None) -> None:
    """Write the run's tokenizer; equal runs give equal bytes.

    Its `model_max_length`, and the truncation in tokenizer.json, are those of training (of a span task: windows);
    there is no padding, and where it is asked for it is on the right. inputs: what the export's model takes, where
    that may be less than what the tokenizer makes.
    """
    tokenizer = copy.deepcopy(run.tokenizer)
    length, stride = longest_text(run), run.settings.stride
    for key in (*_STATE, *_SURROUNDINGS):
        tokenizer.init_kwargs.pop(key, None)
    if getattr(tokenizer, "auto_map", None):
        del tokenizer.auto_map
    tokenizer.model_max_length = length
    # A stock tokenizer may pad a decoder's texts on the left, where positions count from in training.
    tokenizer.padding_side = "right"
    if inputs is not None:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name in inputs]
    for key in ("padding_side", "truncation_side", "model_input_names"):
        tokenizer.init_kwargs[key] = getattr(tokenizer, key)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.enable_truncation(
            length,
            stride=stride or 0,
            strategy="longest_first" if stride is None else "only_second",
            direction=tokenizer.truncation_side,
        )
    tokenizer.save_pretrained(folder)
