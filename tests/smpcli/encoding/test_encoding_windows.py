"""Windows, spans and answers, each against the slow and obvious way of getting them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smpcli.encoding.windows import EncodedSpans, answers_of, best_spans, encode_questions
from smpcli.errors import UserError
from smpcli.modeling.backbone import load_tokenizer
from smpcli.tasks.squad import Answer, Questions
from smpcli.training.objective import task_objective

CPU = torch.device("cpu")
REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "squad" / "xquad.en.json"


def all_of(path: Path) -> Questions:
    content = json.loads(path.read_text(encoding="utf-8"))
    found = Questions([], [], [], [])
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            for entry in paragraph["qas"]:
                found.ids.append(entry["id"])
                found.questions.append(entry["question"])
                found.contexts.append(paragraph["context"])
                found.answers.append([Answer(a["text"], a["answer_start"]) for a in entry["answers"]])
    return found


def slow_windows(
    tokenizer: Any, question: str, context: str, answer: Answer, max_length: int, stride: int
) -> list[tuple[list[int], tuple[int, int], list[tuple[int, int] | None]]]:
    """Ids, (first, last) token of the answer, and characters of each token, window by window."""
    asked = tokenizer(question, add_special_tokens=False)["input_ids"]
    passage = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)
    tokens, places = passage["input_ids"], passage["offset_mapping"]
    # How special tokens go around a pair, by looking at one.
    (mark,) = tokenizer(" film", add_special_tokens=False)["input_ids"]
    pair = tokenizer(" film", " film")["input_ids"]
    first, second = (index for index, token in enumerate(pair) if token == mark)
    before, between, after = pair[:first], pair[first + 1 : second], pair[second + 1 :]
    room = max_length - len(before) - len(asked) - len(between) - len(after)
    end = answer.start + len(answer.text)
    of_answer = [i for i, (a, b) in enumerate(places) if a < end and b > answer.start]
    windows = []
    start = 0
    while True:
        part = range(start, min(start + room, len(tokens)))
        ids = [*before, *asked, *between, *(tokens[i] for i in part), *after]
        shift = len(before) + len(asked) + len(between) - start
        whole = of_answer[0] in part and of_answer[-1] in part
        label = (of_answer[0] + shift, of_answer[-1] + shift) if whole else (0, 0)
        characters = [None] * (shift + start) + [places[i] for i in part] + [None] * len(after)
        windows.append((ids, label, characters))
        if start + room >= len(tokens):
            return windows
        start += room - stride


def check_windows(tokenizer: Any, questions: Questions, found: EncodedSpans, max_length: int, stride: int) -> int:
    expected = [
        (owner, *window)
        for owner in range(len(questions))
        for window in slow_windows(
            tokenizer,
            questions.questions[owner],
            questions.contexts[owner],
            questions.answers[owner][0],
            max_length,
            stride,
        )
    ]
    assert len(found) == len(expected)
    for index, (owner, ids, label, characters) in enumerate(expected):
        assert found.owners[index] == owner
        assert found.columns["input_ids"][index] == ids
        assert tuple(found.labels[index].tolist()) == label
        assert [None if end < 0 else (start, end) for start, end in found.offsets[index].tolist()] == characters
    return len(expected)


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize(("max_length", "stride"), [(24, 0), (24, 6), (18, 7), (40, 10)])
def test_windows_are_a_slow_reference_s(pico: Any, quiz: Path, name: str, max_length: int, stride: int) -> None:
    tokenizer, questions = load_tokenizer(str(pico(name))), all_of(quiz)
    found = encode_questions(tokenizer, questions, max_length, stride)
    assert check_windows(tokenizer, questions, found, max_length, stride) > len(questions)
    assert max(found.lengths) == max_length
    # Some windows hold their answer and some don't.
    held = (found.labels[:, 1] > 0).float().mean()
    assert 0.2 < held < 0.95


@pytest.mark.skipif(not REAL.is_file(), reason="the real data are not beside this checkout")
def test_windows_of_real_contexts_are_those_of_a_slow_reference() -> None:
    tokenizer, questions = load_tokenizer("minilm"), all_of(REAL).take(list(range(0, 1190, 7)))
    found = encode_questions(tokenizer, questions, 128, 32)
    assert check_windows(tokenizer, questions, found, 128, 32) > 1.3 * len(questions)
    # At the task's own length every answer is whole in a window.
    found = encode_questions(tokenizer, questions, 384, 128)
    answered = {owner for owner, label in zip(found.owners, found.labels.tolist(), strict=True) if label[1]}
    assert answered == set(range(len(questions)))


def test_the_tokens_of_an_answer_spell_it(pico: Any, quiz: Path) -> None:
    questions = all_of(quiz)
    for name in ("bert", "roberta"):
        found = encode_questions(load_tokenizer(str(pico(name))), questions, 40, 8)
        for owner, (first, last), places in zip(found.owners, found.labels.tolist(), found.offsets, strict=True):
            if last:
                text = questions.contexts[owner][places[first, 0] : places[last, 1]]
                assert text.strip() == questions.answers[owner][0].text


def test_a_long_question_is_cut_to_64_tokens(pico: Any) -> None:
    tokenizer = load_tokenizer(str(pico("bert")))
    words = "good bad fine".split()
    question = " ".join(words[i % 3] for i in range(100))
    found = encode_questions(tokenizer, Questions(["a"], [question], ["the film"], [[Answer("film", 4)]]), 80, 4)
    asked = tokenizer(" ".join(question.split()[:64]), "the film")["input_ids"]
    assert found.columns["input_ids"] == [asked]
    said = "max_length=70 leaves 3 tokens for the context beside a question of 64, .* stride=4"
    with pytest.raises(UserError, match=said):
        encode_questions(tokenizer, Questions(["a"], [question], ["the film"], [[Answer("film", 4)]]), 70, 4)


# -- from logits to answers ----------------------------------------------------------------------------------


def slow_best(logits: Tensor, places: np.ndarray) -> list[tuple[float, int, int]]:
    inside = [i for i, (_, end) in enumerate(places) if end > 0]
    pairs = [(i, j) for i in inside for j in inside if i <= j < i + 30]
    scored = [(logits[0, i].item() + logits[1, j].item(), i, j) for i, j in pairs]
    return sorted(scored, reverse=True)


@pytest.mark.parametrize(("question", "context"), [(3, 1), (4, 7), (5, 29), (6, 30), (2, 31), (9, 90), (3, 0)])
def test_best_spans_are_those_of_all_pairs(question: int, context: int) -> None:
    generator = torch.Generator().manual_seed(context)
    tokens = question + context + 1
    logits = torch.randn(2, tokens, generator=generator)
    logits[:, :question] += 9  # never chosen, however high
    places = np.full((tokens, 2), -1)
    places[question:-1] = np.array([(3 * i, 3 * i + 2) for i in range(context)]).reshape(-1, 2)
    found, expected = best_spans(logits, places), slow_best(logits, places)[:20]
    assert [span[1:] for span in found] == [span[1:] for span in expected]
    np.testing.assert_allclose([span[0] for span in found], [span[0] for span in expected])


class Remembers(nn.Module):
    """Start and end logits that depend on ids and places alone, (batch, 2, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(200, 2)
        torch.manual_seed(5)
        nn.init.normal_(self.table.weight)
        self.places = torch.randn(64, 2)

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        looked_up: Tensor = self.table(input_ids)
        return (looked_up + self.places[: input_ids.shape[1]]).transpose(1, 2)


def test_the_answer_is_the_best_over_all_windows(pico: Any, quiz: Path) -> None:
    questions = all_of(quiz)
    encoded = encode_questions(load_tokenizer(str(pico("bert"))), questions, 20, 5)
    model = Remembers()
    found = answers_of(model, encoded, CPU)
    several = 0
    for owner, context in enumerate(questions.contexts):
        windows = [index for index, other in enumerate(encoded.owners) if other == owner]
        best = (-float("inf"), "")
        for index in windows:
            inputs, _ = encoded.collate([index])
            score, first, last = slow_best(model(**inputs)[0], encoded.offsets[index])[0]
            text = context[encoded.offsets[index][first, 0] : encoded.offsets[index][last, 1]]
            best = max(best, (score, text))
        several += len(windows) > 1
        assert found[owner] == best[1]
    assert several > 20 and len(set(found)) > 20


def test_a_model_that_predicts_no_number_is_refused(pico: Any, quiz: Path) -> None:
    encoded = encode_questions(load_tokenizer(str(pico("bert"))), all_of(quiz), 20, 5)
    model = Remembers()
    model.table.weight.data[7] = float("nan")
    with pytest.raises(UserError, match="predicts NaN or infinity"):
        answers_of(model, encoded, CPU)


# -- the loss ------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_of_start_and_end_cross_entropy_without_padding() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 7, generator=generator, requires_grad=True)
    present = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 5 + [0] * 2])
    labels = torch.tensor([[2, 6], [0, 0], [4, 4]])
    total = 0.0
    for row in range(3):
        real = int(present[row].sum())
        for side in (0, 1):
            values = logits[row, side, :real].detach()
            total += (values.exp().sum().log() - values[labels[row, side]]).item()
    loss = task_objective("span")({"attention_mask": present}, logits, labels)
    assert loss.item() == pytest.approx(total / 6, rel=1e-6)
    loss.backward()
    assert logits.grad is not None and (logits.grad[1, :, 4:] == 0).all() and (logits.grad[0] != 0).all()
