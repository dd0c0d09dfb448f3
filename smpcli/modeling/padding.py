"""Whether a model's answer on a text depends on that text alone, asked before anything is made of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from smpcli.errors import UserError, one_line
from smpcli.modeling.limits import check_fits, limits_of

SHORT, LONG = "a film", "a film that was made for an audience of one"
# Tokens of the longer text at most: some tokenizers make one of each character.
MOST = 24
# Largest difference of two answers, as a part of the largest logit: far above rounding, and what padding changes in
# models that see it is larger.
TOLERANCE = 1e-3


@torch.no_grad()
def check_padding(model: nn.Module, kind: str, tokenizer: Any) -> None:
    """Ask a short text alone, then padded beside a longer one. kind: the model's type.

    Raises UserError where the logits differ, as in models that read no mask or mix tokens across padding: a label
    would depend on the texts that share its batch, and an evaluation with the same batches would agree. Also where
    the model can't compute a short text at all.
    """
    short, both = _inputs(tokenizer, [SHORT]), _inputs(tokenizer, [SHORT, LONG])
    length = short["input_ids"].shape[1]
    if not length:
        return
    training = model.training
    model.eval()
    try:
        alone, beside = model(**short)[0], model(**both)[0]
    except UserError:
        raise
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever an architecture asks for beside token ids and mask
        # A token without a row, most often a padding token that was added, has a message of its own.
        check_fits(limits_of(model, both), {name: list(rows) for name, rows in both.items()})
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise UserError(
            f"model type '{kind}' can't be used: it fails on a text of {length} tokens ({reason})",
            "choose a transformer such as bert, roberta, distilbert, electra or gpt2 with --model",
        ) from error
    finally:
        model.train(training)
    if not alone.isfinite().all():
        return  # a run that diverged, which is said where it is measured
    if alone.ndim > 1:  # start and end logits, of every token
        beside = beside[..., :length]
    difference, largest = float((alone - beside).abs().max()), float(alone.abs().max())
    if not difference <= TOLERANCE * largest:
        raise UserError(
            f"model type '{kind}' can't be used: it answers a text of {length} tokens differently when it is padded "
            f"(logits differ by {difference:.2g} of {largest:.2g}), so labels would depend on the texts beside it",
            "choose a transformer such as bert, roberta, distilbert, electra or gpt2 with --model",
        )


def _inputs(tokenizer: Any, texts: list[str]) -> dict[str, Tensor]:
    """Token ids, mask and segments as batches have them, padded behind the texts: (texts, longest)."""
    encoded = tokenizer(texts, return_attention_mask=True)
    padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    longest = min(MOST, max(map(len, encoded["input_ids"])))
    return {
        name: torch.tensor([[*row[:MOST], *[fill] * (longest - len(row))] for row in encoded[name]], dtype=torch.long)
        for name, fill in padding.items()
        if name in encoded
    }
