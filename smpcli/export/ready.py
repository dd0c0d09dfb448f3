"""A pruned model that is ready to use: token ids in and logits out, or texts in and predictions out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smpcli.encoding.tokens import INPUTS, second_texts
from smpcli.encoding.windows import EncodedSpans, answers_of, encode_questions
from smpcli.errors import UserError, one_line
from smpcli.kinds import KINDS
from smpcli.modeling.limits import Limits, check_fits, limits_of
from smpcli.modeling.reading import read_specials
from smpcli.tasks.squad import Questions
from smpcli.tasks.texts import is_unicode, prepared

if TYPE_CHECKING:
    from smpcli.export.about import About

BATCH = 32
SHORTEN = "shorten them"


class Ready(nn.Module):
    """`model(**inputs)` are logits (batch, labels), (batch, 1) of a regression, or (batch, 2, length) of a span task.

    `predict` takes texts. model: any module that returns such logits; task, kind: the task's name and its kind's;
    labels: class names in the order of the logits, of a classification; max_length: tokens a text is cut to, as in
    training; pairs: whether an example is two texts; stride: tokens that windows of a long context share, else None;
    special_tokens: those that each text it learned from holds (`modeling/reading.py`).
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        task: str,
        kind: str,
        labels: list[str],
        max_length: int,
        pairs: bool,
        stride: int | None = None,
        special_tokens: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.task = task
        self.kind = KINDS[kind]
        self.labels = labels
        self.max_length = max_length
        self.pairs = pairs
        self.stride = stride
        self.special_tokens = special_tokens
        self._limits: Limits | None = None
        self.eval()

    @classmethod
    def of(cls, about: About, model: nn.Module, tokenizer: Any) -> Ready:
        """From what an export says of itself."""
        read_specials(tokenizer, about.special_tokens)
        how = about.max_length, about.pairs, about.stride, about.special_tokens
        return cls(model, tokenizer, about.task, about.kind, about.labels, *how)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Token ids and masks (batch, length) -> float32 logits (batch, labels), of spans (batch, 2, length)."""
        logits: Tensor = self.model(**inputs)
        return logits.float()

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Texts (or pairs of them) as inputs of `forward`, padded to the longest: name -> (batch, length).

        Raises UserError for what the model has no rows for: a token added later, a text beyond its positions.
        """
        seconds = None if pairs is None else [prepared(text) for text in pairs]
        encoded = self.tokenizer(
            [prepared(text) for text in texts],
            second_texts(self.tokenizer, seconds),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        inputs = {name: encoded[name] for name in INPUTS if name in encoded}
        check_fits(self._limits_for(inputs), inputs, SHORTEN)
        return inputs

    def windows(self, questions: Sequence[str], contexts: Sequence[str]) -> EncodedSpans:
        """Of a span task: the windows of the contexts, each behind its question."""
        assert self.stride is not None
        ids, answers = [str(index) for index in range(len(questions))], [[] for _ in questions]  # type: ignore[var-annotated]
        asked = Questions(ids, [prepared(text) for text in questions], list(contexts), answers)
        encoded = encode_questions(self.tokenizer, asked, self.max_length, self.stride)
        check_fits(self._limits_for(encoded.columns), encoded.columns, SHORTEN)
        return encoded

    def _limits_for(self, inputs: Iterable[str]) -> Limits:
        if self._limits is None:
            self._limits = limits_of(self.model, inputs)
        return self._limits

    @torch.no_grad()
    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Tensor:
        """Logits of texts in one batch, on the CPU in float32: (texts, labels). Not of span tasks: see `windows`."""
        return self._logits(self.encode(texts, pairs))

    def _logits(self, inputs: dict[str, Tensor]) -> Tensor:
        return self(**{name: tensor.to(self._device) for name, tensor in inputs.items()}).cpu()  # type: ignore[no-any-return]

    @property
    def _device(self) -> torch.device:
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @torch.no_grad()
    def predict(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, first: int = 1
    ) -> list[dict[str, Any]]:
        """One answer a text: {"label", "score", "scores"}, {"value"} of a regression, {"answer"} of a span task.

        score: the softmax probability of the label; scores: those of all labels, by name; answer: a part of the
        context. pairs: the second texts (contexts) of a task that has them. first: the first text's number in errors.
        Texts are prepared as in training: white space at both ends is left out.
        Raises UserError where there are pairs for a task that hasn't, or none, and for a text that can't be read:
        one without a token, an empty question or context, half a surrogate pair, no [MASK] where each text that was
        learned from has one.
        """
        if (pairs is not None) != self.pairs or (pairs is not None and len(pairs) != len(texts)):
            takes = "pairs of texts" if self.pairs else "single texts"
            raise UserError(f"task '{self.task}' takes {takes}", "give as many second texts as first ones, or none")
        for number, parts in enumerate(zip(texts, *([] if pairs is None else [pairs]), strict=True), start=first):
            self._check(number, parts)
        if self.stride is not None and pairs is not None:
            return self._found(texts, pairs, first) if texts else []
        answers: list[dict[str, Any]] = []
        for start in range(0, len(texts), BATCH):
            part = slice(start, start + BATCH)
            inputs = self.encode(texts[part], pairs[part] if pairs is not None else None)
            for row, tokens in enumerate(inputs["attention_mask"].sum(1).tolist()):
                if not tokens:
                    raise UserError(f"text {first + start + row} holds no token that the model reads", "leave it out")
            answers += self.kind.answers(self._logits(inputs), self.labels)
        return answers

    def _check(self, number: int, parts: Sequence[str]) -> None:
        """Refuse a text, or a pair of them, that training wouldn't have taken. Raises UserError."""
        if not all(map(is_unicode, parts)):
            raise UserError(
                f"text {number} holds half a surrogate pair (\\ud800 to \\udfff), which is not a character"
            )
        mask = self.tokenizer.mask_token
        count = sum(part.count(mask) for part in parts) if mask in (self.special_tokens or ()) else 1
        if count != 1:
            raise UserError(
                one_line(f"text {number} holds {mask} {count} times, where each text that was learned from has one")
            )
        if self.stride is not None and not prepared(parts[0]):
            raise UserError(f"text {number}: the question is empty")

    def _found(self, questions: Sequence[str], contexts: Sequence[str], first: int) -> list[dict[str, Any]]:
        """Answers of a span task."""
        windows = self.windows(questions, contexts)
        read = {owner for owner, places in zip(windows.owners, windows.offsets, strict=True) if (places > 0).any()}
        if missing := set(range(len(questions))) - read:
            raise UserError(f"text {first + min(missing)}: the context is empty, so it holds no answer")
        return [{"answer": answer} for answer in answers_of(self, windows, self._device)]
