"""Token ids on disk: a set of texts is tokenised once, then read from the user's cache.

A file holds the ids of all examples end to end, the length of each, and how many tokens of it were cut off. Its name
is a digest of everything that decides them: texts, tokenizer, length, and the tokenising library's version. Another
digest, of the content, is kept inside; a file that doesn't agree with it is made again. Windows of long contexts are
not kept: they belong with offsets and answers (spans.py), and making them is a small part of a run on them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smpcli.errors import UserError
from smpcli.files import replacing
from smpcli.paths import cache_dir

if TYPE_CHECKING:
    from smpcli.tasks.data import Examples

#: Model input name -> one list of ids an example.
Columns = dict[str, list[list[int]]]

# Fewer examples are tokenised in the time that it takes to look for their file.
WORTHWHILE = 1000
# What of a tokenizer's output the models are given.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LENGTHS, _LOST, _DIGEST = "lengths", "lost", "sha256"


def tokenise(tokenizer: Any, examples: Examples, max_length: int) -> tuple[Columns, np.ndarray]:
    """As `tokenise_anew`, from the cache where it is in there."""
    texts, pairs = examples.texts, second_texts(tokenizer, examples.pairs)
    path = _cache_file(tokenizer, texts, pairs, max_length)
    found = _read(path, len(examples)) if path is not None else None
    if found is None:
        found = tokenise_anew(tokenizer, examples, max_length)
        if path is not None:
            # A cache that can't be written costs time, not the run.
            with suppress(UserError):
                _write(path, *found)
    return found


def tokenise_anew(tokenizer: Any, examples: Examples, max_length: int) -> tuple[Columns, np.ndarray]:
    """The model's input columns of all examples, cut to `max_length` tokens, and how many tokens each lost."""
    texts, pairs = examples.texts, second_texts(tokenizer, examples.pairs)
    encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length, return_attention_mask=True)
    columns = {name: encoded[name] for name in INPUTS if name in encoded}
    lost = np.zeros(len(texts), dtype=np.uint32)
    # Only what fills the length may have been cut: seldom much, so this is cheap.
    full = [row for row, ids in enumerate(columns["input_ids"]) if len(ids) >= max_length]
    if full:
        again = [texts[row] for row in full], None if pairs is None else [pairs[row] for row in full]
        whole = tokenizer(*again, truncation=False, verbose=False)["input_ids"]
        lost[full] = [len(ids) - len(columns["input_ids"][row]) for row, ids in zip(full, whole, strict=True)]
    return columns, lost


def input_names(tokenizer: Any) -> list[str]:
    """The models' inputs that this tokenizer makes, in the order of `INPUTS`."""
    made = tokenizer("a", return_attention_mask=True)
    return [name for name in INPUTS if name in made]


def second_texts(tokenizer: Any, pairs: Sequence[str] | None) -> list[str] | None:
    """The second texts as the tokenizer needs them to keep them apart from the first ones."""
    if pairs is None:
        return None
    # GPT-2 and the like put nothing between two texts: the last word of one would run into the first of the other.
    apart = tokenizer.num_special_tokens_to_add(pair=True)
    return list(pairs) if apart else [f"\n{text}" for text in pairs]


def _cache_file(tokenizer: Any, texts: list[str], pairs: list[str] | None, max_length: int) -> Path | None:
    """Where these tokens belong; None where they aren't cached."""
    # A tokenizer written in Python has no complete description of itself.
    if len(texts) < WORTHWHILE or not getattr(tokenizer, "is_fast", False):
        return None
    from tokenizers import __version__ as version

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two are set by its last caller.
    described.pop("truncation", None)
    described.pop("padding", None)
    # Whether special tokens in texts are split is in no description.
    state = [tokenizer.truncation_side, tokenizer.model_input_names, tokenizer.split_special_tokens]
    about = [version, described, *state, max_length]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(json.dumps([texts, pairs], ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return cache_dir() / "tokens" / f"{digest.hexdigest()[:32]}.safetensors"


def _write(path: Path, columns: Columns, lost: np.ndarray) -> None:
    from safetensors.numpy import save_file

    lengths = np.fromiter(map(len, columns["input_ids"]), dtype=np.uint32)
    arrays = {_LENGTHS: lengths, _LOST: lost}
    for name, rows in columns.items():
        flat = np.fromiter((value for row in rows for value in row), dtype=np.int64, count=int(lengths.sum()))
        arrays[name] = flat.astype(np.min_scalar_type(int(flat.max(initial=0))))
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata={_DIGEST: _digest(arrays)})


def _read(path: Path, examples: int) -> tuple[Columns, np.ndarray] | None:
    """What `_write` was given, or None where there is no file or it isn't as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if (file.metadata() or {}).get(_DIGEST) != _digest(arrays) or len(arrays[_LENGTHS]) != examples:
                return None
            lost = arrays[_LOST]
    except (OSError, SafetensorError, KeyError):
        return None
    ends = np.cumsum(arrays.pop(_LENGTHS), dtype=np.int64).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    columns = {}
    # In the tokenizer's own order, which becomes that of the model's inputs.
    for name in INPUTS:
        if name in arrays:
            flat = arrays[name].tolist()
            columns[name] = [flat[start:end] for start, end in spans]
    return columns, lost


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, types, sizes and contents."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype}".encode() + struct.pack("<Q", array.size))
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
