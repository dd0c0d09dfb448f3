"""A pruned model that is ready to use: token ids in and logits out, or texts in and predictions out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smpcli.errors import UserError
from smpcli.tasks.squad import Questions
from smpcli.training.spans import EncodedSpans, answers_of, encode_questions
from smpcli.training.tokens import INPUTS, second_texts

if TYPE_CHECKING:
    from smpcli.export.about import About

BATCH = 32


class Ready(nn.Module):
    """`model(**inputs)` are logits (batch, labels), (batch, 1) of a regression, or (batch, 2, length) of a span task.

    `predict` takes texts. model: any module that returns such logits; task: the task's name; labels: class names in
    the order of the logits, of a classification; max_length: tokens a text is cut to, as in training; pairs: whether
    an example is two texts; stride: of a span task, tokens that windows of a long context share, else None.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        task: str,
        labels: list[str],
        max_length: int,
        pairs: bool,
        stride: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.task = task
        self.labels = labels
        self.max_length = max_length
        self.pairs = pairs
        self.stride = stride
        self.eval()

    @classmethod
    def of(cls, about: About, model: nn.Module, tokenizer: Any) -> Ready:
        """From what an export says of itself."""
        return cls(model, tokenizer, about.task, about.labels, about.max_length, about.pairs, about.stride)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Token ids and masks (batch, length) -> float32 logits (batch, labels), of spans (batch, 2, length)."""
        logits: Tensor = self.model(**inputs)
        return logits.float()

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Texts (or pairs of them) as inputs of `forward`, padded to the longest: name -> (batch, length)."""
        encoded = self.tokenizer(
            list(texts),
            second_texts(self.tokenizer, pairs),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {name: encoded[name] for name in INPUTS if name in encoded}

    def windows(self, questions: Sequence[str], contexts: Sequence[str]) -> EncodedSpans:
        """Of a span task: the windows of the contexts, each behind its question."""
        assert self.stride is not None
        ids, answers = [str(index) for index in range(len(questions))], [[] for _ in questions]  # type: ignore[var-annotated]
        asked = Questions(ids, list(questions), list(contexts), answers)
        return encode_questions(self.tokenizer, asked, self.max_length, self.stride)

    @torch.no_grad()
    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tensor:
        """Logits of texts in one batch, on the CPU in float32: (texts, labels). Not of span tasks: see `windows`."""
        inputs = {name: tensor.to(self._device) for name, tensor in self.encode(texts, pairs).items()}
        return self(**inputs).cpu()  # type: ignore[no-any-return]

    @property
    def _device(self) -> torch.device:
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """One answer a text: {"label", "score", "scores"}, {"value"} of a regression, {"answer"} of a span task.

        score: the softmax probability of the label; scores: those of all labels, by name; answer: a part of the
        context. pairs: the second texts (contexts) of a task that has them.
        Raises UserError where there are some for a task that hasn't, or none.
        """
        if (pairs is not None) != self.pairs or (pairs is not None and len(pairs) != len(texts)):
            takes = "pairs of texts" if self.pairs else "single texts"
            raise UserError(f"task '{self.task}' takes {takes}: give as many second texts as first ones, or none")
        if self.stride is not None and pairs is not None:
            found = answers_of(self, self.windows(texts, pairs), self._device) if texts else []
            return [{"answer": answer} for answer in found]
        answers: list[dict[str, Any]] = []
        for start in range(0, len(texts), BATCH):
            part = slice(start, start + BATCH)
            answers += self._answers(self.logits(texts[part], pairs[part] if pairs is not None else None))
        return answers

    def _answers(self, logits: Tensor) -> Iterator[dict[str, Any]]:
        if not self.labels:
            yield from ({"value": value} for value in logits[:, 0].tolist())
            return
        for row in logits.softmax(1).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            scores = dict(zip(self.labels, row, strict=True))
            yield {"label": self.labels[best], "score": row[best], "scores": scores}
