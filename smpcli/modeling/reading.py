"""How a person's texts are read: what in them is a special token, and at which token a decoder is read.

A literal "[SEP]" in a review is five characters and no boundary: texts are encoded with special tokens split, unless
each text of the training set holds one, as the texts of a template with [MASK] do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from smpcli.errors import one_line


def last_tokens(input_ids: Tensor, padding: int) -> Tensor:
    """Where a decoder's texts are read: the rightmost token that isn't the padding token, as its stock
    sequence-classification class finds it; or the first, where there is none. input_ids (batch, length) -> (batch,).
    """
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    return (places * (input_ids != padding)).amax(1)


def names(tokenizer: Any) -> list[str]:
    """The special tokens of a tokenizer, as they would stand in a text."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return [name for name in dict.fromkeys([*tokenizer.all_special_tokens, *added]) if name.strip()]


def held_in_every(tokenizer: Any, texts: Iterable[str]) -> list[str]:
    """The special tokens that each of these texts holds, so on purpose: of [MASK] just one, as it is read there."""
    found = names(tokenizer)
    for text in texts:
        found = [name for name in found if _held(tokenizer, name, text)]
        if not found:
            break
    return found


def _held(tokenizer: Any, name: str, text: str) -> bool:
    return text.count(name) == 1 if name == tokenizer.mask_token else name in text


def remark(tokenizer: Any, texts: Iterable[str], held: Sequence[str], at_mask: bool) -> str | None:
    """What is worth saying of special tokens in the texts to train on; None where they hold none.

    at_mask: whether the model is read at [MASK].
    """
    if held:
        where = f"; the answer is read at {tokenizer.mask_token}" if at_mask else ""
        return one_line(f"each training text holds {_listed(held)}: special tokens in texts are read as such{where}")
    pattern = re.compile("|".join(map(re.escape, names(tokenizer))))
    rows = [pattern.findall(text) for text in texts]
    if not (number := sum(map(bool, rows))):
        return None
    seen = dict.fromkeys(name for row in rows for name in row)
    return one_line(
        f"{number:,} of {len(rows):,} training texts hold {_listed(seen)}, special tokens of the model: "
        "they are read as plain characters"
    )


def _listed(found: Iterable[str]) -> str:
    shown = list(found)
    return ", ".join(shown[:4]) + (", …" if len(shown) > 4 else "")


def read_specials(tokenizer: Any, held: Sequence[str] | None) -> None:
    """Have a tokenizer read special tokens in texts as such where some are `held` on purpose, else as characters.

    It keeps this when it is saved. None: of a run that is older than the question, which changes nothing.
    """
    if held is None:
        return
    tokenizer.split_special_tokens = tokenizer.init_kwargs["split_special_tokens"] = not held
    if not held:
        _part(tokenizer)


def _part(tokenizer: Any) -> None:
    """Put a space into special tokens that the vocabulary holds as pieces of text, too.

    The lattice of a unigram model (XLM-RoBERTa, DeBERTa-v3) has "</s>" in it, and so has a vocabulary of words that
    are split at white space alone: there, `split_special_tokens` changes nothing.
    """
    if not tokenizer.is_fast:
        return
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    whole = [
        name
        for name in sorted(names(tokenizer), key=len, reverse=True)
        # Text that reads as unknown isn't a fault.
        if name != tokenizer.unk_token
        and tokenizer.convert_tokens_to_ids(name) in tokenizer.encode(name, add_special_tokens=False)
    ]
    if not whole:
        return
    backend = tokenizer.backend_tokenizer
    own = [backend.normalizer] if backend.normalizer is not None else []
    # Again behind its own normalizer, which may make one of "＜/s＞".
    parted = [normalizers.Replace(name, f"{name[0]} {name[1:]}") for name in whole]
    backend.normalizer = normalizers.Sequence([*parted, *own, *parted] if own else parted)
    # Classes of one architecture make a new normalizer when they are loaded; this one takes what was saved.
    for key in ("model_input_names", "padding_side", "truncation_side"):
        tokenizer.init_kwargs[key] = getattr(tokenizer, key)
    tokenizer.__class__ = PreTrainedTokenizerFast


class Reader(Protocol):
    """A model that is read at a token: `padding` says where texts end, `mask_id` which token is the answer's."""

    padding: int | None
    mask_id: int | None


def read_alike(model: Reader, tokenizer: Any, held: Sequence[str] | None) -> None:
    """Have a model and its tokenizer read texts as a run says: held as for `read_specials`."""
    read_specials(tokenizer, held)
    if held is None:
        # Then a decoder's words were read at the last token of all, padding tokens of the text's own among them.
        model.padding = None
    elif tokenizer.mask_token not in held:
        model.mask_id = None
