"""Long contexts in windows that overlap, and the way back from a window's logits to a text of the context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from smpcli.encoding.batches import Encoded, LogitParts, logits_in_parts
from smpcli.encoding.cut import Cut
from smpcli.encoding.tokens import INPUTS
from smpcli.errors import UserError

if TYPE_CHECKING:
    from smpcli.tasks.squad import Questions

# As in BERT's own script: tokens of a question, tokens of an answer, candidates of a window.
QUESTION_TOKENS = 64
ANSWER_TOKENS = 30
N_BEST = 20


@dataclass(frozen=True)
class EncodedSpans(Encoded):
    """Windows of contexts, each behind its question. labels (windows, 2): the tokens where the answer starts and
    ends, or 0, 0 (the first token) in a window that doesn't hold it whole.

    owners: the question of each window; offsets: of each window (tokens, 2), the characters of the context that a
    token stands for, -1 where it isn't one of the context's.
    """

    questions: Questions
    owners: list[int]
    offsets: list[np.ndarray]
    evaluation_batch: ClassVar[int] = 32

    @property
    def references(self) -> list[Any]:
        """Each question's answers."""
        return self.questions.texts

    @property
    def ids(self) -> list[str]:
        """The questions' own."""
        return self.questions.ids


def encode_questions(tokenizer: Any, questions: Questions, max_length: int, stride: int) -> EncodedSpans:
    """Windows of at most `max_length` tokens: question, then context; neighbours share `stride` of the context's.

    A question is cut to 64 tokens. Raises `UserError` where it leaves no room for more than `stride` tokens.
    """
    texts, longest, cut = cut_questions(tokenizer, questions.questions)
    room = max_length - longest - tokenizer.num_special_tokens_to_add(pair=True)
    if room <= stride:
        raise UserError(
            f"max_length={max_length} leaves {max(room, 0)} tokens for the context beside a question of {longest}, "
            f"no more than the stride={stride} that windows share",
            "change either with --set",
        )
    found = tokenizer(
        texts,
        questions.contexts,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=True,
    )
    owners: list[int] = list(found["overflow_to_sample_mapping"])
    offsets: list[np.ndarray] = []
    labels = np.zeros((len(owners), 2), dtype=np.int64)
    for window, owner in enumerate(owners):
        places = np.array(found["offset_mapping"][window], dtype=np.int32).reshape(-1, 2)
        places[[part != 1 for part in found.sequence_ids(window)]] = -1
        offsets.append(places)
        labels[window] = _tokens_of(places, questions, owner)
    names = [name for name in INPUTS if name in found]
    padding = {"input_ids": tokenizer.pad_token_id or 0, "attention_mask": 0, "token_type_ids": 0}
    columns = {name: found[name] for name in names}
    return EncodedSpans(columns, torch.from_numpy(labels), padding, questions, owners, offsets, cut=cut)


def cut_questions(tokenizer: Any, questions: list[str]) -> tuple[list[str], int, Cut]:
    """The questions, each up to where its 64th token ends, the tokens of the longest, and what is lost."""
    asked = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)
    lengths = np.array([len(ids) for ids in asked["input_ids"]])
    kept = lengths.clip(max=QUESTION_TOKENS)
    cut = Cut.count("questions", QUESTION_TOKENS, kept, lengths - kept)
    if not cut.cut:
        return questions, int(lengths.max()), cut
    ends = [max((end for _, end in places[:QUESTION_TOKENS]), default=0) for places in asked["offset_mapping"]]
    return [text[:end] for text, end in zip(questions, ends, strict=True)], QUESTION_TOKENS, cut


def _tokens_of(places: np.ndarray, questions: Questions, owner: int) -> tuple[int, int]:
    """First and last token of the question's first answer in a window, or 0, 0 where it isn't whole in it."""
    if not questions.answers[owner]:
        return 0, 0
    answer = questions.answers[owner][0]
    start = answer.start + len(answer.text) - len(answer.text.lstrip())
    end = answer.start + len(answer.text.rstrip())
    inside = np.flatnonzero(places[:, 1] > 0)
    if not len(inside) or places[inside[0], 0] > start or places[inside[-1], 1] < end:
        return 0, 0
    # A token may begin with the space before its word, so it is the last one that begins at or before the answer.
    first = inside[places[inside, 0] <= start][-1]
    last = inside[places[inside, 1] >= end][0]
    return int(first), int(max(first, last))


def answers_of(model: nn.Module, encoded: EncodedSpans, device: torch.device) -> list[str]:
    """The model's answer to each question: the best of the best spans of all its windows."""
    return answers_from(logits_in_parts(model, encoded, device), encoded)


def answers_from(parts: LogitParts, encoded: EncodedSpans) -> list[str]:
    """The answer to each question, from logits (windows, 2, length) in parts: which windows, and theirs."""
    best: list[list[tuple[float, str]]] = [[] for _ in range(len(encoded.questions))]
    for indices, logits in parts:
        if not logits.isfinite().all():
            raise UserError("the model predicts NaN or infinity: training diverged", "take a lower learning rate")
        for window, row in zip(indices, logits, strict=True):
            owner, places = encoded.owners[window], encoded.offsets[window]
            context = encoded.questions.contexts[owner]
            for score, first, last in best_spans(row[:, : len(places)], places):
                best[owner].append((score, context[places[first, 0] : places[last, 1]].strip()))
    # Neither the order of windows nor that of equal scores decides: the earliest text in the alphabet does.
    return [min(found, key=lambda pair: (not pair[1], -pair[0], pair[1]))[1] if found else "" for found in best]


def best_spans(logits: Tensor, places: np.ndarray) -> list[tuple[float, int, int]]:
    """The 20 best spans of a window, (start logit + end logit, first token, last token), the best first.

    logits (2, tokens), places (tokens, 2) as in `EncodedSpans`. Both ends are tokens of the context, the last not
    before the first, at most 30 tokens. All such spans are looked at.
    """
    inside = np.flatnonzero(places[:, 1] > 0)
    if not len(inside):
        return []
    start, end = logits[:, inside].double().numpy()
    # Row i, column j: from token i to the j-th behind it.
    width = min(ANSWER_TOKENS, len(inside))
    padded = np.concatenate([end, np.full(width - 1, -np.inf)])
    scores = start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)
    order = np.argsort(-scores, axis=None, kind="stable")[:N_BEST]
    rows, columns = np.unravel_index(order, scores.shape)
    return [
        (float(scores[i, j]), int(inside[i]), int(inside[i + j]))
        for i, j in zip(rows, columns, strict=True)
        if np.isfinite(scores[i, j])
    ]
