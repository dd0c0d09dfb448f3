"""Questions on a context that holds the answer: SQuAD's JSON format, read and checked (Rajpurkar et al., 2016)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from smpcli.errors import UserError, one_line
from smpcli.tasks.labels import fold
from smpcli.tasks.tables import Table, read_text
from smpcli.tasks.texts import prepared

COLUMNS = ("id", "question", "context", "answers")
# Each question is read with its whole context: all contexts together may be this long, or so many times the file.
# SQuAD's own come to five times.
CONTEXT_CHARACTERS, CONTEXT_TIMES = 2**26, 100


class Answer(NamedTuple):
    """An answer as people marked it; `start` counts characters of the context."""

    text: str
    start: int


@dataclass(frozen=True)
class Questions:
    """Parallel lists, one entry a question. The first answer is trained on; those only asked of a model have none."""

    ids: list[str]
    questions: list[str]
    contexts: list[str]
    answers: list[list[Answer]]
    #: What of one that is in the dev set, too.
    overlapping = "questions are on contexts that are"

    def __len__(self) -> int:
        return len(self.ids)

    def whole_texts(self) -> Iterator[str]:
        """Each question and its context as one text."""
        return (f"{asked}\n{passage}" for asked, passage in zip(self.questions, self.contexts, strict=True))

    @property
    def texts(self) -> list[list[str]]:
        """The answers' texts, of each question all of them."""
        return [[answer.text for answer in answers] for answers in self.answers]

    def take(self, rows: list[int]) -> Questions:
        """Some of the questions."""
        return Questions(
            [self.ids[row] for row in rows],
            [self.questions[row] for row in rows],
            [self.contexts[row] for row in rows],
            [self.answers[row] for row in rows],
        )

    def split_keys(self) -> list[bytes]:
        """A hash of each question's context: all questions on a context stay on one side of a split."""
        return [hashlib.sha256(" ".join(text.casefold().split()).encode()).digest() for text in self.contexts]

    def text_keys(self) -> list[bytes]:
        """Equal for questions on the same context, as `Examples.text_keys` are for texts."""
        return [hashlib.sha256(fold(text).encode("utf-8", "surrogatepass")).digest() for text in self.contexts]

    def repeat_keys(self) -> list[bytes]:
        """Equal for rows that ask the same of the same context."""
        return [
            key + hashlib.sha256(fold(text).encode("utf-8", "surrogatepass")).digest()
            for key, text in zip(self.text_keys(), self.questions, strict=True)
        ]

    def classes(self, labels: list[str]) -> list[int]:
        """Any answer is as good as another."""
        return [0] * len(self)

    def check(self, name: str, labels: list[str]) -> None:
        """Any answers can be learned from."""

    def summary(self, labels: list[str]) -> None:
        """For result.json: answers have neither counts nor a range."""

    def counted(self, labels: list[str]) -> str:
        """How many there are, for people."""
        return f"{len(self):,} questions"

    def canonical(self, labels: list[str]) -> Iterator[Any]:
        """Each row as JSON takes it, for the digest of the data. `labels` is empty: answers aren't classes."""
        for row in zip(self.ids, self.questions, self.contexts, self.answers, strict=True):
            yield list(row)


def read_squad(path: Path) -> Table:
    """A file of SQuAD's JSON format as a table with the hub's columns: id, question, context, answers.

    {"data": [{"paragraphs": [{"context": …, "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}]}]}
    Raises `UserError`, with the place in the file where there is one.
    """
    text = read_text(path)
    try:
        content = json.loads(text, parse_constant=_no_number)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path}: holds half a surrogate pair (\\ud800 to \\udfff), which is not a character"
        ) from None
    except json.JSONDecodeError as error:
        remedy = "a file of one object a line ends in .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{path}, line {error.lineno}: broken JSON ({error.msg})", remedy) from None
    except (RecursionError, ValueError) as error:
        raise UserError(f"{path}: broken JSON ({one_line(str(error), 80)})") from None
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    most, characters = max(CONTEXT_CHARACTERS, CONTEXT_TIMES * len(text)), 0
    place = ""
    try:
        for i, article in enumerate(content["data"]):
            for j, paragraph in enumerate(article["paragraphs"]):
                place = f", article {i}, paragraph {j} (from 0)"
                characters += len(paragraph["context"]) * len(paragraph["qas"])
                if characters > most:
                    raise UserError(
                        f"{path.name}{place}: more than {most:,} characters to read, with each question's context",
                        "split long contexts into paragraphs",
                    )
                for entry in paragraph["qas"]:
                    columns["context"].append(paragraph["context"])
                    columns["id"].append(entry["id"])
                    columns["question"].append(entry["question"])
                    answers = entry["answers"]
                    columns["answers"].append(
                        {key: [answer[key] for answer in answers] for key in ("text", "answer_start")}
                    )
    except (KeyError, TypeError, IndexError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else "a list or an object is missing"
        raise UserError(
            f"{path.name}{place} isn't in SQuAD's format ({what}): data, paragraphs, context and qas (id, question, "
            "answers with text and answer_start) are needed",
            "save rows of texts and labels as .jsonl",
        ) from None
    if not columns["id"]:
        raise UserError(f"{path} holds no question")
    return Table(path.name, columns, range(len(columns["id"])), "question")


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def read_questions(table: Table, names: list[str]) -> Questions:
    """A table's rows, checked one by one. names: the columns of question, context and answers; ids are in "id".

    Raises `UserError` with the row's place.
    """
    question, context, answers = names
    found = Questions([], [], [], [])
    seen: set[str] = set()
    parts = (table.values(name) for name in ("id", question, context, answers))
    for row, (name, asked, passage, marked) in enumerate(zip(*parts, strict=True)):
        place = table.place(row)
        for what, value in (("id", name), (question, asked), (context, passage)):
            if not isinstance(value, str) or not value.strip():
                raise UserError(f"{place}: no text in '{what}'")
        if name in seen:
            raise UserError(f"{place}: the id '{one_line(name, 60)}' appears more than once")
        seen.add(name)
        found.ids.append(name)
        found.questions.append(prepared(asked))
        found.contexts.append(passage)
        found.answers.append(_answers(place, passage, marked))
    return found


def _answers(place: str, context: str, marked: Any) -> list[Answer]:
    found = marked or {"text": [], "answer_start": []}
    texts, starts = (found.get(key) for key in ("text", "answer_start")) if isinstance(found, dict) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise UserError(f"{place}: answers must hold two lists of one length, text and answer_start")
    if not texts:
        raise UserError(
            f"{place}: no answer, and questions without one (SQuAD 2.0) can't be learned", "leave them out"
        )
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{place}: an answer without text")
        if not isinstance(start, int) or isinstance(start, bool):
            raise UserError(f"{place}: answer_start must be a whole number, not {one_line(repr(start), 40)}")
    answers = [Answer(text, start) for text, start in zip(texts, starts, strict=True)]
    # The first one is trained on, so it must be where it is said to be.
    return [_placed(place, context, answers[0]), *answers[1:]]


def _placed(place: str, context: str, answer: Answer) -> Answer:
    """The answer, moved to the nearest place where its text is, if that isn't `start`."""
    text = answer.text
    if answer.start >= 0 and context.startswith(text, answer.start):
        return answer
    before = context.rfind(text, 0, max(0, answer.start) + len(text))
    after = context.find(text, max(0, answer.start))
    places = [found for found in (before, after) if found >= 0]
    if not places:
        raise UserError(f"{place}: its context doesn't hold the answer '{one_line(text, 80)}'")
    return Answer(text, min(places, key=lambda found: abs(found - answer.start)))
