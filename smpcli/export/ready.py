"""A pruned model that is ready to use: token ids in and logits out, or texts in and predictions out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smpcli.errors import UserError
from smpcli.training.batches import INPUTS

BATCH = 32


class Ready(nn.Module):
    """`model(**inputs)` are logits (batch, labels), or (batch, 1) of a regression; `predict` takes texts.

    model: any module that returns such logits; task: the task's name; labels: class names in the order of the
    logits, none in a regression; max_length: tokens a text is cut to, as in training; pairs: whether an example is
    two texts.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, task: str, labels: list[str], max_length: int, pairs: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.task = task
        self.labels = labels
        self.max_length = max_length
        self.pairs = pairs
        self.eval()

    def forward(self, **inputs: Tensor) -> Tensor:
        """Token ids and masks (batch, length) -> logits (batch, labels)."""
        logits: Tensor = self.model(**inputs)
        return logits

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Texts (or pairs of them) as inputs of `forward`, padded to the longest: name -> (batch, length)."""
        encoded = self.tokenizer(
            list(texts),
            list(pairs) if pairs is not None else None,
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {name: encoded[name] for name in INPUTS if name in encoded}

    @torch.no_grad()
    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tensor:
        """Logits of texts in one batch, on the CPU in float32: (texts, labels)."""
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        inputs = {name: tensor.to(device) for name, tensor in self.encode(texts, pairs).items()}
        return self(**inputs).float().cpu()  # type: ignore[no-any-return]

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """One answer a text: {"label", "score", "scores"}, or {"value"} of a regression.

        score: the softmax probability of the label; scores: those of all labels, by name. pairs: the second texts of
        a task that has them. Raises UserError where there are some for one that hasn't, or none.
        """
        if (pairs is not None) != self.pairs or (pairs is not None and len(pairs) != len(texts)):
            takes = "pairs of texts" if self.pairs else "single texts"
            raise UserError(f"task '{self.task}' takes {takes}: give as many second texts as first ones, or none")
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
