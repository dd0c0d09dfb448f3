"""Questions on contexts that hold the answer: the model points at its first and last token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from smpcli.encoding.batches import Encoded, LogitParts, MicroBatch
from smpcli.encoding.cut import Cut
from smpcli.encoding.windows import EncodedSpans, answers_from, cut_questions, encode_questions
from smpcli.kinds.kind import Divergence, Inputs, Kind, Predictions
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.span_head import SpanModel, set_span_prototypes
from smpcli.tasks.metrics import compute_answers
from smpcli.tasks.squad import Questions

if TYPE_CHECKING:
    import numpy as np

    from smpcli.tasks.data import Rows

#: A logit that no softmax sees, and that stays finite where -inf would make 0 * inf.
NEVER = -1e4
PROTOTYPE_WINDOWS = 512  # a window has some hundred tokens to learn from


class Span(Kind):
    """logits (batch, 2, length): of start and end at each token; labels (batch, 2): their positions."""

    stock_logits = "torch.stack([found.start_logits, found.end_logits], 1)"

    def encode(self, tokenizer: Any, rows: Rows, max_length: int, stride: int | None) -> EncodedSpans:
        assert isinstance(rows, Questions) and stride is not None
        return encode_questions(tokenizer, rows, max_length, stride)

    def cut(self, tokenizer: Any, rows: Rows, max_length: int) -> Cut:
        assert isinstance(rows, Questions)
        *_, cut = cut_questions(tokenizer, rows.questions)
        return cut

    def texts(self, rows: Rows) -> tuple[list[str], list[str] | None]:
        assert isinstance(rows, Questions)
        return rows.questions, rows.contexts

    def plain_texts(self, tokenizer: Any, rows: Rows) -> tuple[list[str], list[str] | None]:
        questions, contexts = self.texts(rows)
        return cut_questions(tokenizer, questions)[0], contexts

    def loss(self, inputs: Inputs, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of the two cross-entropies (BERT, arXiv 1810.04805, 4.2), each over the tokens that are there."""
        padding = inputs["attention_mask"][:, None, :] == 0
        logits = logits.masked_fill(padding, torch.finfo(logits.dtype).min)
        return cross_entropy(logits.flatten(0, 1), labels.flatten())

    def distilled(self, inputs: Inputs, logits: Tensor, teacher: Tensor, divergence: Divergence) -> Tensor:
        # No probability for padding, which the teacher was never asked about.
        padding = ~inputs["attention_mask"].bool().unsqueeze(1)
        teacher = teacher.reshape(len(teacher), 2, -1)[..., : padding.shape[-1]]
        return divergence(logits.masked_fill(padding, NEVER), teacher.masked_fill(padding, NEVER))

    def uncarried(self, carried: Tensor) -> tuple[Tensor, Tensor]:
        return carried[:, :2].long(), carried[:, 2:]

    def setup_examples(self, labels: Tensor, order: np.ndarray) -> np.ndarray:
        return order[:PROTOTYPE_WINDOWS]

    def set_prototypes(self, model: TaskModel, batches: Iterable[MicroBatch], scale: float) -> None:
        assert isinstance(model, SpanModel)
        set_span_prototypes(model, batches, scale)

    def predictions(self, parts: LogitParts, encoded: Encoded) -> Predictions:
        """The answer to each question: the best of the best spans of all its windows."""
        assert isinstance(encoded, EncodedSpans)
        return answers_from(parts, encoded)

    def measure(self, metrics: list[str], predictions: Any, references: Sequence[Any]) -> dict[str, float]:
        return compute_answers(metrics, predictions, references)

    def undefined(self, metrics: Sequence[str], rows: Rows) -> None:
        """Answers can always be told apart."""
