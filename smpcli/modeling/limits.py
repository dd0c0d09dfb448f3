"""What a model can look up: how many tokens its vocabulary has, and how many positions and segments it knows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode

from smpcli.errors import UserError

# Tokens of the text that a model is tried with.
TRIAL = 6


@dataclass(frozen=True)
class Limits:
    """Rows of a model's tables; None where it has none: `positions` of a model with relative ones, say.

    tokens: ids must be below; positions: tokens that a text may have; segments: token types must be below.
    """

    tokens: int | None = None
    positions: int | None = None
    segments: int | None = None


class _Lookups(TorchFunctionMode):
    """Notes what is looked up in which table, whatever the module around it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Tensor, int]] = []

    def __torch_function__(
        self, func: Any, types: Collection[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is embedding and len(args) > 1:
            self.found.append((args[0].detach().clone(), len(args[1])))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def limits_of(model: nn.Module, names: Iterable[str] = ("input_ids", "attention_mask")) -> Limits:
    """The limits of a model, seen in what it looks up for a text of the same token six times.

    A model that knows its own says them as `limits`. names: the inputs that it is given. Architectures call their
    tables as they like, and begin to count where they like (RoBERTa behind the padding's position, OPT at 2), so the
    numbers themselves say which table is which.
    """
    known = getattr(model, "limits", None)
    if isinstance(known, Limits):
        return known
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    names = set(names)
    best: dict[str, int] = {}
    # Two tokens, as one of them may be the padding, which some count no position for.
    for token in (7, 6):
        inputs = {
            "input_ids": torch.full((1, TRIAL), token),
            "attention_mask": torch.ones(1, TRIAL, dtype=torch.long),
        }
        if "token_type_ids" in names:
            inputs["token_type_ids"] = torch.zeros(1, TRIAL, dtype=torch.long)
        for indices, rows in _looked_up(model, {name: tensor.to(device) for name, tensor in inputs.items()}):
            # Some pad the text to a length of their own.
            looked = indices.reshape(-1, indices.shape[-1])[:, :TRIAL].tolist() if indices.numel() else []
            if not looked:
                continue
            first = looked[0][0]
            if all(row == [token] * TRIAL for row in looked):
                best["tokens"] = min(best.get("tokens", rows), rows)
            elif "token_type_ids" in names and all(row == [0] * TRIAL for row in looked):
                best["segments"] = min(best.get("segments", rows), rows)
            elif all(row == list(range(first, first + TRIAL)) for row in looked):
                best["positions"] = min(best.get("positions", rows - first), rows - first)
    return Limits(**best)


def _looked_up(model: nn.Module, inputs: dict[str, Tensor]) -> list[tuple[Tensor, int]]:
    """(indices, rows of the table) of every lookup of one forward pass in evaluation mode."""
    training = model.training
    lookups = _Lookups()
    # Some models draw numbers in evaluation, too; a run shall not depend on that.
    with torch.random.fork_rng(), lookups:
        model.eval()
        try:
            model(**inputs)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            pass  # too short a text for it: what was looked up until then counts
        finally:
            model.train(training)
    return lookups.found


def check_fits(limits: Limits, columns: Mapping[str, Sequence[Any]], remedy: str = "") -> None:
    """Refuse token ids, lengths or segments that a model has no rows for, which it would crash at or misread.

    columns: model input name -> one row of numbers an example. remedy: what to do about texts that are too long.
    Raises UserError.
    """
    longest = max(map(len, columns["input_ids"]), default=0)
    if limits.positions is not None and longest > limits.positions:
        wanted = remedy or f"add --set max_length={limits.positions}"
        raise UserError(f"texts of up to {longest} tokens, where the model takes {limits.positions}", wanted)
    top = _largest(columns["input_ids"])
    if limits.tokens is not None and top >= limits.tokens:
        raise UserError(
            f"the tokenizer makes the token id {top}, where the model's table ends at {limits.tokens - 1}",
            "take the tokenizer that belongs to the model, or give added tokens rows (resize_token_embeddings) and "
            "train them",
        )
    segment = _largest(columns.get("token_type_ids", []))
    if limits.segments is not None and segment >= limits.segments:
        raise UserError(
            f"the tokenizer numbers a second text's tokens {segment}, where the model knows segments up to "
            f"{limits.segments - 1}",
            "take token_type_ids out of model_input_names in its tokenizer_config.json",
        )


def _largest(rows: Sequence[Any]) -> int:
    return max((int(row.max() if isinstance(row, Tensor) else max(row)) for row in rows if len(row)), default=0)
