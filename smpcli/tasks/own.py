"""A person's own file: which column is what, classes or numbers, and which labels there are."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any, Literal

from smpcli.errors import UserError, one_line, unknown
from smpcli.tasks.tables import Table, shown

# Names that a pair of columns has in common data sets, first sentence first.
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "passage"),
)
TEXTS = ("text", "sentence", "review", "content", "document", "comment", "tweet", "message", "utterance", "body")
LABELS = ("label", "labels", "gold_label", "class", "target", "category", "sentiment", "score", "rating", "stars")
FLAGS = "--set text_column=…, pair_column=… or label_column=…"
# A label column of whole numbers is taken for classes up to so many different ones, or where they count 0, 1, 2, …
SMALL_SET = 20


def columns(table: Table, text: str | None, pair: str | None, label: str | None) -> tuple[str, str | None, str]:
    """The columns of text, second text (or None) and label: as named, else by their usual names.

    A pair is guessed only where no text column was named. Raises `UserError` when a column isn't there.
    """
    names = list(table.columns)
    for named in (text, pair, label):
        if named is not None and named not in names:
            raise unknown("column", named, names, f"in {table.name}")
    # A column that was named for one thing is not guessed for another.
    lower = {name.lower(): name for name in names if name not in (text, pair, label)}
    if label is None:
        label = next((lower.pop(name) for name in LABELS if name in lower), None)
    if label is None:
        raise _missing(table, "label", LABELS)
    if text is None and pair is None:
        both = next(((lower[a], lower[b]) for a, b in PAIRS if a in lower and b in lower), None)
        if both:
            return *both, label
    if text is None:
        candidates = (*TEXTS, *(first for first, _ in PAIRS))
        text = next((lower[name] for name in candidates if name in lower), None)
    if text is None:
        raise _missing(table, "text", TEXTS)
    if len({text, pair, label}) < 3:
        raise UserError(f"{table.name}: text, second text and label must be different columns")
    return text, pair, label


def _missing(table: Table, what: str, usual: tuple[str, ...]) -> UserError:
    names = list(table.columns)
    if len(names) == 1 and (mark := next((m for m in ";\t|" if m in names[0]), None)):
        spelt = "tab" if mark == "\t" else f"'{mark}'"
        return UserError(f"{table.name} seems to be separated by {spelt}: save it with commas, or with tabs as .tsv")
    return UserError(
        f"{table.name} has no {what} column: none is called {', '.join(usual[:3])} or the like; "
        f"its columns (the first line names them): {shown(names, 8)}; name yours with {FLAGS}"
    )


def spelling(value: Any) -> str | None:
    """How a label is written: 1, 1.0 and "1.0" are all "1"; None for no label. Raises `TypeError` for a list."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if not isinstance(value, int | str):
        raise TypeError(type(value).__name__)
    text = str(value).strip()
    # pandas turns a column of whole numbers into 0.0, 1.0 as soon as one row lacks it
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text) or None


def number(value: str) -> float | None:
    """The number that a label is, NaN and infinities too; None when it is none."""
    try:
        return None if "_" in value else float(value)  # float() takes 1_000 for a number
    except ValueError:
        return None


def label_at(table: Table, column: str, row: int, value: Any) -> str:
    """A row's label as written. Raises `UserError` when it is missing or a list."""
    try:
        name = spelling(value)
    except TypeError as error:
        raise UserError(
            f"{table.place(row)}: the label in '{column}' is a {error}: it must be one text or number"
        ) from None
    if name is None:
        raise UserError(f"{table.place(row)}: no label in '{column}'")
    return name


def count(table: Table, column: str) -> Counter[str]:
    """How often each label occurs."""
    return Counter(label_at(table, column, row, value) for row, value in enumerate(table.values(column)))


def kind_and_labels(table: Table, column: str) -> tuple[Literal["classification", "regression"], list[str]]:
    """Are the labels classes (then which, in order) or numbers to regress on?

    Numbers where one has a fraction, or where whole numbers are neither few nor 0, 1, 2, … (1, 2, 3, …).
    Raises `UserError` for labels that can't be meant.
    """
    counts = count(table, column)
    numbers = {name: number(name) for name in counts}
    if all(value is not None for value in numbers.values()):
        values = [value for value in numbers.values() if value is not None and math.isfinite(value)]
        whole = all(value.is_integer() for value in values)
        counted = whole and sorted(values) in ([float(i + first) for i in range(len(values))] for first in (0, 1))
        if len(values) < len(numbers) or not (whole and (len(values) <= SMALL_SET or counted)):
            return "regression", []
    return "classification", class_names(table, column, counts)


def class_names(table: Table, column: str, counts: Counter[str]) -> list[str]:
    """The labels that were counted, numbers by value, then words by the alphabet."""
    if len(counts) == 1:
        raise UserError(
            f"{table.name}: every row has the label '{one_line(next(iter(counts)), 40)}' in '{column}'; "
            "there is nothing to learn from one class only"
        )
    if len(counts) > max(SMALL_SET, sum(counts.values()) // 2):
        raise UserError(
            f"{table.name}: '{column}' has {len(counts):,} different values in {sum(counts.values()):,} rows: "
            f"that is no label column (numbers need a decimal point); name yours with {FLAGS}"
        )
    folded: dict[str, str] = {}
    for name in counts:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(f"{table.name}: labels '{other}' and '{name}' differ in case only: write them alike")

    def order(name: str) -> tuple[bool, float, str]:
        value = number(name)
        return (False, value, name) if value is not None and math.isfinite(value) else (True, 0.0, name)

    return sorted(counts, key=order)
