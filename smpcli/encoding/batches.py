"""Tokenised examples and batches of similar length."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.data import DataLoader, Dataset, Sampler

from smpcli.encoding.cut import Cut
from smpcli.encoding.tokens import Columns, tokenise
from smpcli.errors import UserError, one_line
from smpcli.modeling.limits import Limits, check_fits

if TYPE_CHECKING:
    from smpcli.settings import Settings
    from smpcli.tasks.data import Examples


# So few padded tokens cost a GPU no more than a bucket of them does.
GPU_TOKENS = 4096

#: Inputs of the model, each (examples, length), and labels (examples,).
MicroBatch = tuple[dict[str, Tensor], Tensor]


@dataclass(frozen=True)
class Encoded(Dataset[int]):
    """Tokenised examples. columns: model input name -> one list of ids an example; labels: one number an example.

    references: what predictions are measured by; ids: the rows' own names, where they have some.
    cut: what they lost where they were too long; None where that isn't known.
    """

    columns: dict[str, list[list[int]]]
    labels: Tensor
    padding: dict[str, int]
    cut: Cut | None = field(default=None, kw_only=True)
    #: Examples of a batch in evaluation.
    evaluation_batch: ClassVar[int] = 64

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> int:
        return index

    @property
    def lengths(self) -> np.ndarray:
        return np.fromiter((len(ids) for ids in self.columns["input_ids"]), dtype=np.int64, count=len(self))

    @property
    def references(self) -> list[Any]:
        return self.labels.tolist()

    @property
    def ids(self) -> list[str] | None:
        return None

    def collate(self, indices: Sequence[int]) -> MicroBatch:
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


def encode(tokenizer: Any, examples: Examples, max_length: int) -> Encoded:
    """Tokenise examples, cut to `max_length` tokens; large sets come from the cache the next time.

    Raises UserError for a text that gives no token, which only a tokenizer that puts nothing around texts has.
    """
    padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    labels = torch.tensor(examples.labels)  # ids become int64, numbers float32
    columns, lost = tokenise(tokenizer, examples, max_length)
    for text, ids in zip(examples.texts, columns["input_ids"], strict=True):
        if not ids:
            raise UserError(
                f"the text {one_line(ascii(text), 60)} holds no token that the model reads", "leave it out"
            )
    return Encoded(columns, labels, padding, cut=count_cut(examples, columns, lost, max_length))


def count_cut(examples: Examples, columns: Columns, lost: np.ndarray, max_length: int) -> Cut:
    """From what `tokenise` returns of the examples."""
    unit = "texts" if examples.pairs is None else "pairs of texts"
    return Cut.count(unit, max_length, [len(ids) for ids in columns["input_ids"]], lost)


def check_encoded(limits: Limits, sets: Iterable[Encoded], remedy: str = "") -> None:
    """Refuse examples, and padding beside them, that a model has no rows for. Raises UserError (`check_fits`)."""
    for encoded in sets:
        check_fits(limits, encoded.columns, remedy)
        if len(set(encoded.lengths.tolist())) > 1:
            check_fits(limits, {"input_ids": [[encoded.padding["input_ids"]]]})


Rows = TypeVar("Rows", np.ndarray, list[int])


def chunks(rows: Rows, size: int) -> list[Rows]:
    """Rows cut into pieces of `size`, the last of what is left."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class LengthBuckets(Sampler[list[int]]):
    """Batches of buckets of similar length: shuffle, sort inside windows, cut into buckets, deal those to batches.

    window: batches that a window has; with 1, plain chance decides which examples share a batch. micro_batches:
    buckets that a batch is made of, one after another; with 1, a batch is a bucket. The order depends on these, on
    `seed` and on how often it was iterated (the epoch), nothing else. `done` batches, over all epochs, are taken as
    read: the first iteration begins after them.
    """

    def __init__(
        self, lengths: np.ndarray, batch_size: int, seed: int, window: int, micro_batches: int = 1, done: int = 0
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.drop_last = False
        self.seed = seed
        self.window = window
        self.bucket = -(-batch_size // micro_batches)
        self.epoch, self.skipped = divmod(done, len(self))

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches(self.epoch)[self.skipped :]
        self.epoch, self.skipped = self.epoch + 1, 0
        yield from batches

    def batch(self, step: int) -> list[int]:
        """The examples of a step, counted over all epochs from 0."""
        epoch, index = divmod(step, len(self))
        return self.batches(epoch)[index]

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of an epoch, in order."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(len(self.lengths))
        windows = chunks(order, self.window * self.batch_size)
        order = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in windows])
        if self.bucket < self.batch_size and self.window > 1:
            whole = len(order) // self.bucket * self.bucket
            dealt = random.permutation(order[:whole].reshape(-1, self.bucket))
            order = np.concatenate([dealt.ravel(), order[whole:]])
        batches = chunks(order, self.batch_size)
        return [batches[index].tolist() for index in random.permutation(len(batches))]


def training_order(settings: Settings, encoded: Encoded, done: int = 0) -> LengthBuckets:
    """The order that a run's settings ask for, without its first `done` batches."""
    buckets = settings.run.bucket_window, settings.run.micro_batches
    return LengthBuckets(encoded.lengths, settings.run.batch_size, settings.run.seed, *buckets, done)


def tokens_together(device: torch.device) -> int:
    """How many padded tokens micro-batches are joined to on this device; 0: each is computed alone."""
    return 0 if device.type == "cpu" else GPU_TOKENS


def training_loader(
    encoded: Encoded,
    order: LengthBuckets,
    part: int = 0,
    parts: int = 1,
    workers: int = 0,
    together: int = 0,
    pinned: bool = False,
    multiple: int = 1,
) -> DataLoader[Any]:
    """Batches in that order, each a list of micro-batches; of several processes, each gets its part of every batch.

    The mean over the parts' mean losses is the batch's: all parts are of one size, and a batch that can't be divided
    (an epoch's last) is each process's as a whole. workers: processes that collate ahead, 0: this one; their number
    changes no batch, nor its order. together: micro-batches of a batch are joined while they have no more padded
    tokens than this; the gradient is the same but for rounding. pinned: in memory that a GPU reads by itself.
    multiple: texts are padded to a length that this divides, as far as the longest of all goes.
    """
    bucket = -(-order.bucket // parts)
    longest = int(order.lengths.max())
    return DataLoader(
        encoded,
        batch_sampler=order,
        collate_fn=partial(_collate, encoded, order.lengths, bucket, part, parts, together, multiple, longest),
        num_workers=workers,
        pin_memory=pinned,
        worker_init_fn=_ignore_interrupts,
    )


def _collate(
    encoded: Encoded,
    lengths: np.ndarray,
    bucket: int,
    part: int,
    parts: int,
    together: int,
    multiple: int,
    longest: int,
    indices: list[int],
) -> list[MicroBatch]:
    own = indices[part::parts] if len(indices) % parts == 0 else indices
    pieces: list[list[int]] = []
    for piece in chunks(own, bucket):
        joined = [*pieces[-1], *piece] if pieces else piece
        if pieces and len(joined) * int(lengths[joined].max()) <= together:
            pieces[-1] = joined
        else:
            pieces.append(piece)
    return [_padded(encoded, encoded.collate(piece), multiple, longest) for piece in pieces]


def _padded(encoded: Encoded, batch: MicroBatch, multiple: int, longest: int) -> MicroBatch:
    inputs, labels = batch
    length = inputs["input_ids"].shape[1]
    more = min(-(-length // multiple) * multiple, longest) - length
    return {name: pad(ids, (0, more), value=encoded.padding[name]) for name, ids in inputs.items()}, labels


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the one that trains ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def evaluation_order(encoded: Encoded) -> list[list[int]]:
    """Batches sorted by length: no randomness, hardly any padding."""
    order = np.argsort(encoded.lengths, kind="stable")
    return [batch.tolist() for batch in chunks(order, encoded.evaluation_batch)]


#: Which examples, and their logits in float32 on the CPU.
LogitParts = Iterable[tuple[Sequence[int], Tensor]]


@torch.no_grad()
def logits_in_parts(model: nn.Module, encoded: Encoded, device: torch.device) -> LogitParts:
    """The logits of every example, a batch at a time, of the model in evaluation mode."""
    training = model.training
    model.eval()
    for indices in evaluation_order(encoded):
        inputs, _ = encoded.collate(indices)
        yield indices, model(**{name: tensor.to(device) for name, tensor in inputs.items()}).float().cpu()
    model.train(training)
