"""Rows of texts with class ids or numbers, checked one by one."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smpcli.errors import UserError, one_line, visible
from smpcli.tasks import own
from smpcli.tasks.labels import difference, fold, key, number, shown_apart
from smpcli.tasks.tables import Table, shown
from smpcli.tasks.task import Task
from smpcli.tasks.texts import prepared

FLOAT32_MAX = 3.4028234663852886e38
TOP = 6  # labels that are shown with their counts


@dataclass(frozen=True)
class Examples:
    """Parallel lists, one entry a row. `labels`: class ids (int), or numbers (float) in a regression."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | list[float]
    #: What of one that is in the dev set, too.
    overlapping = "texts are"

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: list[int]) -> Examples:
        """Some of the rows."""
        labels: list[Any] = [self.labels[row] for row in rows]
        pairs = None if self.pairs is None else [self.pairs[row] for row in rows]
        return Examples([self.texts[row] for row in rows], pairs, labels)

    def whole_texts(self) -> Iterator[str]:
        """Each row's text, or both of them as one."""
        if self.pairs is None:
            return iter(self.texts)
        return (f"{text}\n{pair}" for text, pair in zip(self.texts, self.pairs, strict=True))

    def split_keys(self) -> list[bytes]:
        """A hash of each row's texts: repeats, in other case or spacing too, stay on one side of a split."""
        return [
            hashlib.sha256(" ".join(f"{text}\t{pair}".casefold().split()).encode()).digest()
            for text, pair in zip(self.texts, self.pairs or [""] * len(self), strict=True)
        ]

    def repeat_keys(self) -> list[bytes]:
        """Equal for rows that ask the same, whatever their case, spacing, Unicode form and invisible characters."""
        pairs = self.pairs or [""] * len(self)
        return [
            hashlib.sha256(f"{fold(text)}\t{fold(pair)}".encode("utf-8", "surrogatepass")).digest()
            for text, pair in zip(self.texts, pairs, strict=True)
        ]

    def text_keys(self) -> list[bytes]:
        """Equal for rows whose texts are the same: of the same text nothing else is asked."""
        return self.repeat_keys()

    def classes(self, labels: list[str]) -> Sequence[float]:
        """What a split keeps some of on either side: each class; any number is as good as another."""
        return self.labels if labels else [0] * len(self)

    def check(self, name: str, labels: list[str]) -> None:
        """Raises `UserError` where there is nothing to learn: one label only, or a class without a row."""
        seen = set(self.labels)
        if len(seen) == 1:
            only = labels[int(self.labels[0])] if labels else self.labels[0]
            raise UserError(
                f"{name}: every row to train on has the label '{only}'; there is nothing to learn from one"
            )
        if missing := [label for i, label in enumerate(labels) if i not in seen]:
            raise UserError(f"{name}: no row to train on has the label '{missing[0]}'")

    def summary(self, labels: list[str]) -> tuple[str, Any]:
        """For result.json: "labels" and how many rows each has, or the "range" of numbers."""
        if not labels:
            return "range", (min(self.labels), max(self.labels))
        counts = Counter(self.labels)
        return "labels", {name: counts[i] for i, name in enumerate(labels)}

    def counted(self, labels: list[str]) -> str:
        """The same for people."""
        if not labels:
            return f"{len(self):,} numbers from {min(self.labels):g} to {max(self.labels):g}"
        counts = Counter({labels[int(i)]: n for i, n in sorted(Counter(self.labels).items())})
        top = [f"{visible(name, 40)} ({n:,})" for name, n in counts.most_common(TOP)]
        rest = [n for _, n in counts.most_common()[TOP:]]
        return ", ".join([*top, f"{len(rest)} others ({sum(rest):,})"] if rest else top)

    def canonical(self, labels: list[str]) -> Iterator[Any]:
        """Each row as JSON takes it, for the digest of the data; labels by name."""
        pairs: Sequence[str | None] = self.pairs or [None] * len(self)
        for text, pair, label in zip(self.texts, pairs, self.labels, strict=True):
            yield [text, pair, labels[int(label)] if labels else label]


def read_examples(task: Task, table: Table) -> Examples:
    """A table's texts and labels, checked one by one. Raises `UserError` with the row's place."""
    if task.source.drop_incomplete:
        table = _complete(table, task.columns[:-1])
    texts = _texts(table, task.text)
    pairs = _texts(table, task.pair) if task.pair else None
    values = table.values(task.label)
    if not task.labels:
        return Examples(texts, pairs, [_number(task, table, row, value) for row, value in enumerate(values)])
    ids = {name: i for i, name in enumerate(task.labels)}
    known = ids | {spelt: ids[name] for spelt, name in task.label_values.items()}
    labels: list[int] = []
    for row, value in enumerate(values):
        # most rows are spelt as the task says; the slow way names what is wrong with the others
        label = known.get(value) if isinstance(value, str) else None
        if label is None:
            spelt = own.label_at(table, task.label, row, value)
            label = known.get(spelt)
            if label is None:
                raise _unknown_label(table, row, spelt, known)
        labels.append(label)
    return Examples(texts, pairs, labels)


def labelled(task: Task, table: Table) -> tuple[Table, dict[str, int]]:
    """The rows that have a label, by the task's `unlabelled`; and how many haven't, by what they have instead.

    Raises `UserError` when none has.
    """
    if not task.unlabelled:
        return table, {}
    names = [own.label_at(table, task.label, row, value) for row, value in enumerate(table.values(task.label))]
    none, known = {key(label) for label in task.unlabelled}, {*task.labels, *task.label_values}
    left_out = {name: rows for name, rows in Counter(names).items() if name not in known and key(name) in none}
    if not left_out:
        return table, {}
    if sum(left_out.values()) == len(table):
        raise UserError(f"{table.name}: no row has a label: '{visible(next(iter(left_out)))}' means no label")
    return table.take([row for row, name in enumerate(names) if name not in left_out]), left_out


def _complete(table: Table, columns: list[str]) -> Table:
    """The rows that have a text in each of these columns."""
    texts = zip(*(table.values(column) for column in columns), strict=True)
    whole = [row for row, found in enumerate(texts) if all(isinstance(text, str) and text.strip() for text in found)]
    return table.take(whole)


def _unknown_label(table: Table, row: int, spelt: str, known: Collection[str]) -> UserError:
    if twin := next((label for label in known if key(label) == key(spelt)), None):
        one, other = shown_apart(spelt, twin)
        return UserError(
            f"{table.place(row)}: the label '{one}' and '{other}' {difference(spelt, twin)}", "write them alike"
        )
    note = " (-1 marks rows without a label, as in GLUE's test sets)" if spelt == "-1" else ""
    return UserError(f"{table.place(row)}: unknown label '{visible(spelt)}'{note}", f"known: {shown(known, 20)}")


def _texts(table: Table, column: str) -> list[str]:
    texts = []
    for row, value in enumerate(table.values(column)):
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise UserError(f"{table.place(row)}: '{column}' must be text, not {kind} ({one_line(str(value), 40)})")
        text = prepared(value) if value else ""
        if not text:
            raise UserError(f"{table.place(row)}: no text in '{column}'")
        texts.append(text)
    return texts


def _number(task: Task, table: Table, row: int, value: Any) -> float:
    spelt = own.label_at(table, task.label, row, value)
    found = number(spelt)
    if found is None or not math.isfinite(found) or abs(found) > FLOAT32_MAX:
        raise UserError(f"{table.place(row)}: the label '{visible(spelt)}' is not a finite number")
    if task.source.score_range:
        low, high = task.source.score_range
        if not low <= found <= high:
            raise UserError(f"{table.place(row)}: the label {spelt} lies outside {low:g} to {high:g}")
    return found
