"""What a kind of task decides, as texts (or pairs) with a label each have it; a kind overrides what differs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from smpcli.encoding.batches import Encoded, LogitParts, MicroBatch, count_cut, encode
from smpcli.encoding.cut import Cut
from smpcli.encoding.tokens import second_texts, tokenise_anew
from smpcli.modeling.heads import TaskModel, set_prototypes
from smpcli.tasks.examples import Examples
from smpcli.tasks.metrics import compute, undefined

if TYPE_CHECKING:
    import numpy as np

    from smpcli.tasks.data import Rows

SETUP_EXAMPLES = 2048  # that prototypes and input statistics are made of
#: The model's, by name, each (batch, length).
Inputs = dict[str, Tensor]
#: Of two softmaxes over the last dimension of logits, a scalar.
Divergence = Callable[[Tensor, Tensor], Tensor]
#: Class ids, numbers, or texts of answers, in the order of the examples.
Predictions = list[int] | list[float] | list[str]


class Kind(ABC):
    """A kind of task. Labels: as `Encoded` has them; logits: the model's in float32, (batch, outputs)."""

    #: Python for the logits, from `found`: what the stock class with a head of its own returns.
    stock_logits = "found.logits"

    # -- rows become tokens ------------------------------------------------------------------------------

    def encode(self, tokenizer: Any, rows: Rows, max_length: int, stride: int | None) -> Encoded:
        """Tokenise rows; windows of long texts may be more than rows. stride: tokens that they share."""
        assert isinstance(rows, Examples)
        return encode(tokenizer, rows, max_length)

    def cut(self, tokenizer: Any, rows: Rows, max_length: int) -> Cut:
        """What `encode` will cut off; nothing is cached."""
        assert isinstance(rows, Examples)
        return count_cut(rows, *tokenise_anew(tokenizer, rows, max_length), max_length)

    def texts(self, rows: Rows) -> tuple[list[str], list[str] | None]:
        """The rows' first texts and second texts, as `Ready` takes them."""
        assert isinstance(rows, Examples)
        return rows.texts, rows.pairs

    def plain_texts(self, tokenizer: Any, rows: Rows) -> tuple[list[str], list[str] | None]:
        """The same as a tokenizer takes them that knows nothing of what smp does with them."""
        texts, pairs = self.texts(rows)
        return texts, second_texts(tokenizer, pairs)

    # -- training ----------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, inputs: Inputs, logits: Tensor, labels: Tensor) -> Tensor:
        """What training minimises: the mean over a batch, a scalar."""

    @abstractmethod
    def distilled(self, inputs: Inputs, logits: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
        """The distance to a teacher's logits, a scalar."""

    def uncarried(self, carried: Tensor) -> tuple[Tensor, Tensor]:
        """Labels as `loss` takes them, and the teacher's logits, from rows of numbers (batch, 1 + outputs)."""
        return carried[:, 0], carried[:, 1:]

    def setup_examples(self, labels: Tensor, order: np.ndarray) -> np.ndarray:
        """Which of the training examples, in a random order, prototypes and input statistics are made of."""
        return order[:SETUP_EXAMPLES]

    def set_prototypes(self, model: TaskModel, batches: Iterable[MicroBatch], scale: float) -> None:
        """Make the model's output layer prototypes of these (inputs, labels)."""
        set_prototypes(model, batches, scale)

    # -- evaluation --------------------------------------------------------------------------------------

    @abstractmethod
    def predictions(self, parts: LogitParts, encoded: Encoded) -> Predictions:
        """One prediction a row, from logits in parts."""

    def measure(self, metrics: list[str], predictions: Any, references: Sequence[Any]) -> dict[str, float]:
        """Each of the metrics; references: as `Encoded` has them."""
        return compute(metrics, predictions, references)

    def undefined(self, metrics: Sequence[str], rows: Rows) -> str | None:
        """Which metrics say nothing on these rows, and why; None where all do."""
        assert isinstance(rows, Examples)
        return undefined(metrics, rows.labels)

    def answers(self, logits: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
        """What `predict` says of each text; labels: the classes' names. Not of kinds that read windows."""
        raise NotImplementedError


def in_order(parts: LogitParts) -> Tensor:
    """Logits (examples, …) in the order of the examples."""
    order, logits = zip(*parts, strict=True)
    return torch.cat(logits)[torch.tensor([index for indices in order for index in indices]).argsort()]
