"""Tokenised examples and batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

if TYPE_CHECKING:
    from smpcli.tasks.data import Examples

# Examples are sorted by length inside windows of this many batches: little padding, and still a random order.
WINDOW = 50
# What of a tokenizer's output the models are given.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Encoded(Dataset[int]):
    """Tokenised examples. columns: model input name -> one list of ids an example; labels: one number an example."""

    columns: dict[str, list[list[int]]]
    labels: Tensor
    padding: dict[str, int]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def lengths(self) -> np.ndarray:
        return np.fromiter((len(ids) for ids in self.columns["input_ids"]), dtype=np.int64, count=len(self))

    def collate(self, indices: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs padded to the longest of the batch, each (batch, length), and labels (batch,)."""
        length = max(len(self.columns["input_ids"][index]) for index in indices)
        inputs = {}
        for name, rows in self.columns.items():
            block = np.full((len(indices), length), self.padding[name], dtype=np.int64)
            for row, index in enumerate(indices):
                ids = rows[index]
                block[row, : len(ids)] = ids
            inputs[name] = torch.from_numpy(block)
        return inputs, self.labels[list(indices)]


def encode(tokenizer: Any, examples: Examples, max_length: int, regression: bool) -> Encoded:
    """Tokenise examples, cut to `max_length` tokens."""
    pairs = second_texts(tokenizer, examples.pairs)
    encoded = tokenizer(examples.texts, pairs, truncation=True, max_length=max_length, return_attention_mask=True)
    names = [name for name in INPUTS if name in encoded]
    padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    labels = torch.tensor(examples.labels, dtype=torch.float32 if regression else torch.long)
    return Encoded({name: encoded[name] for name in names}, labels, padding)


def second_texts(tokenizer: Any, pairs: Sequence[str] | None) -> list[str] | None:
    """The second texts as the tokenizer needs them to keep them apart from the first ones."""
    if pairs is None:
        return None
    # GPT-2 and kin put nothing between two texts: the last word of one would run into the first of the other.
    apart = tokenizer.num_special_tokens_to_add(pair=True)
    return list(pairs) if apart else [f"\n{text}" for text in pairs]


class LengthBuckets(Sampler[list[int]]):
    """Batches of similar length in random order: shuffle, sort inside windows, cut into batches, shuffle those.

    The order depends on `seed` and on how often it was iterated (the epoch), nothing else.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.drop_last = False
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = random.permutation(len(self.lengths))
        window = WINDOW * self.batch_size
        parts = [order[start : start + window] for start in range(0, len(order), window)]
        order = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        for index in random.permutation(len(batches)):
            yield batches[index].tolist()


def training_loader(encoded: Encoded, batch_size: int, seed: int) -> DataLoader[Any]:
    sampler = LengthBuckets(encoded.lengths, batch_size, seed)
    return DataLoader(encoded, batch_sampler=sampler, collate_fn=encoded.collate)


def evaluation_order(encoded: Encoded, batch_size: int) -> list[list[int]]:
    """Batches sorted by length: no randomness, hardly any padding."""
    order = np.argsort(encoded.lengths, kind="stable")
    return [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
