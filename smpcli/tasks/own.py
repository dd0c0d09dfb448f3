"""A person's own file: which column is what, classes or numbers, and which labels there are."""

from __future__ import annotations

import math
import re
from collections import Counter
from decimal import Decimal
from typing import Any

from smpcli.errors import UserError, unknown, visible
from smpcli.tasks.labels import difference, fold, key, missing, no_label, number, shown_apart, twins
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

    A pair is guessed only where no text column was named. Raises `UserError` when a column isn't there, or when one
    that is guessed has a twin, such as "Text" beside "text".
    """
    names = list(table.columns)
    for named in (text, pair, label):
        if named is not None and named not in names:
            raise unknown("column", named, names, f"in {table.name}")
    # A column that was named for one thing is not guessed for another.
    usual: dict[str, list[str]] = {}
    for name in names:
        if name not in (text, pair, label):
            usual.setdefault(fold(name), []).append(name)
    if label is None:
        label = next((_only(table, "label", usual.pop(name)) for name in LABELS if name in usual), None)
    if label is None:
        raise _missing(table, "label", LABELS)
    if text is None and pair is None:
        both = next(((usual[a], usual[b]) for a, b in PAIRS if a in usual and b in usual), None)
        if both:
            return _only(table, "text", both[0]), _only(table, "pair", both[1]), label
    if text is None:
        candidates = (*TEXTS, *(first for first, _ in PAIRS))
        text = next((_only(table, "text", usual[name]) for name in candidates if name in usual), None)
    if text is None:
        raise _missing(table, "text", TEXTS)
    if len({text, pair, label}) < 3:
        raise UserError(f"{table.name}: text, second text and label must be different columns")
    return text, pair, label


def _only(table: Table, what: str, names: list[str]) -> str:
    if len(names) > 1:
        raise UserError(
            f"{table.name} has the columns {shown(names)}, which {difference(*names[:2])}",
            f"name the one to take with --set {what}_column=…, or rename the others",
        )
    return names[0]


def _missing(table: Table, what: str, usual: tuple[str, ...]) -> UserError:
    names = list(table.columns)
    if len(names) == 1 and (mark := next((m for m in ";\t|" if m in names[0]), None)):
        spelt = "tab" if mark == "\t" else f"'{mark}'"
        return UserError(
            f"{table.name} seems to be separated by {spelt}", "save it with commas, or with tabs as .tsv"
        )
    return UserError(
        f"{table.name} has no {what} column: none is called {', '.join(usual[:3])} or the like; its columns (the "
        f"first line names them): {shown(names, 8)}",
        f"name yours with {FLAGS}",
    )


def spelling(value: Any) -> str | None:
    """How a label is written: 1, 1.0 and "1.0" are all "1"; None for no label. Raises `TypeError` for a list."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):  # a column of parquet has as many decimals in each row: 1.50, 2.00
        digits = f"{value:f}"
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if not isinstance(value, int | str):
        raise TypeError(type(value).__name__)
    text = str(value).strip()
    # pandas turns a column of whole numbers into 0.0, 1.0 as soon as one row lacks it
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text) or None


def label_at(table: Table, column: str, row: int, value: Any) -> str:
    """A row's label as written. Raises `UserError` when it is missing or a list."""
    try:
        name = spelling(value)
    except TypeError as error:
        raise UserError(
            f"{table.place(row)}: the label in '{column}' is a {error}", "it must be one text or number"
        ) from None
    if name is None:
        raise UserError(f"{table.place(row)}: no label in '{column}'")
    if not (name.isascii() and name.isprintable()) and not fold(name):
        raise UserError(f"{table.place(row)}: no label in '{column}' but invisible characters ('{visible(name)}')")
    return name


def count(table: Table, column: str) -> Counter[str]:
    """How often each label occurs."""
    return Counter(label_at(table, column, row, value) for row, value in enumerate(table.values(column)))


def kind_and_labels(table: Table, column: str) -> tuple[str, list[str], list[str]]:
    """Are the labels classes (then which, in order) or numbers to regress on? And which mean no label?

    Numbers where one has a fraction, or where whole numbers are neither few nor 0, 1, 2, … (1, 2, 3, …).
    Raises `UserError` for labels that can't be meant.
    """
    counts, unlabelled = meant(count(table, column))
    numbers = {name: number(name) for name in counts}
    if all(value is not None for value in numbers.values()):
        finite = [value for value in numbers.values() if value is not None and math.isfinite(value)]
        values = sorted(set(finite))
        whole = all(value.is_integer() for value in values)
        counted = whole and values in ([float(i + first) for i in range(len(values))] for first in (0, 1))
        if len(finite) < len(numbers) or not (whole and (len(values) <= SMALL_SET or counted)):
            return "regression", [], unlabelled
    return "classification", class_names(table, column, counts), unlabelled


def meant(counts: Counter[str], unlabelled: list[str] | None = None) -> tuple[Counter[str], list[str]]:
    """The labels without those that mean no label; and what these are, here or in a dev file (None: by custom)."""
    if unlabelled is None:
        unlabelled = no_label(counts)
    none = {key(label) for label in unlabelled}
    return Counter({label: rows for label, rows in counts.items() if key(label) not in none}), unlabelled


def class_names(table: Table, column: str, counts: Counter[str]) -> list[str]:
    """The labels that were counted, numbers by value, then words by the alphabet.

    Raises `UserError` for too many or too few of them, missing values, and labels that look alike.
    """
    if len(counts) == 1:
        raise UserError(
            f"{table.name}: every row has the label '{visible(next(iter(counts)), 40)}' in '{column}'; "
            "there is nothing to learn from one class only"
        )
    if (gap := missing(counts)) is not None:
        row = next(i for i, value in enumerate(table.values(column)) if spelling(value) == gap)
        raise UserError(
            f"{table.place(row)}: the label '{visible(gap)}' in '{column}' is how missing values are written",
            "leave such rows out, or list the labels in a task file if it is one",
        )
    if len(counts) > max(SMALL_SET, sum(counts.values()) // 2):
        raise UserError(
            f"{table.name}: '{column}' has {len(counts):,} different values in {sum(counts.values()):,} rows: "
            "that is not a label column (numbers need a decimal point)",
            f"name yours with {FLAGS}",
        )
    if (pair := twins(counts)) is not None:
        one, other = shown_apart(*pair)
        raise UserError(f"{table.name}: labels '{one}' and '{other}' {difference(*pair)}", "write them alike")

    def order(name: str) -> tuple[bool, float, str]:
        value = number(name)
        return (False, value, name) if value is not None and math.isfinite(value) else (True, 0.0, name)

    return sorted(counts, key=order)
