"""Labels as people mean them: which spellings are one and the same, and which mean that there is none."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Collection, Iterable
from decimal import Decimal, InvalidOperation

from smpcli.errors import invisible, visible

# What GLUE (and the hub) and SNLI write for rows without a label.
MINUS_ONE, DASH = "-1", "-"
# Missing values as pandas and others write them; words that may well be a class ("none", "NA") only beside numbers.
MISSING = {"nan", "null", "<na>", "#n/a"}
MISSING_NUMBERS = MISSING | {"na", "n/a", "none", "?"}

# Hyphens, dashes and the minus sign, which most fonts draw alike.
DASHES = dict.fromkeys([*range(0x2010, 0x2016), 0x2212], DASH)


def number(label: str) -> float | None:
    """The number that a label is, NaN and infinities too; None when it isn't one."""
    try:
        return None if "_" in label else float(label)  # float() takes 1_000 for a number
    except ValueError:
        return None


def fold(text: str) -> str:
    """NFKC without case, invisible characters and surplus white space; every dash and minus sign is a hyphen."""
    if text.isascii() and text.isprintable():
        return " ".join(text.casefold().split())
    seen = "".join(char for char in unicodedata.normalize("NFKC", text) if char.isspace() or not invisible(char))
    seen = seen.translate(DASHES)
    return " ".join(unicodedata.normalize("NFKC", seen.casefold()).split())


def key(label: str) -> str | Decimal:
    """Equal for labels that mean the same: folded alike, the same number, or true and 1 (false and 0)."""
    folded = fold(label)
    folded = {"true": "1", "false": "0"}.get(folded, folded)
    value = number(folded)
    if value is None or not math.isfinite(value):
        return folded
    try:
        return Decimal(folded)  # exact, where floats of long ids are rounded
    except InvalidOperation:
        return folded


def twins(labels: Iterable[str]) -> tuple[str, str] | None:
    """The first two labels that mean the same."""
    first: dict[str | Decimal, str] = {}
    for label in labels:
        other = first.setdefault(key(label), label)
        if other != label:
            return other, label
    return None


def difference(one: str, other: str) -> str:
    """What sets two labels of one key apart, for a message."""
    ways: dict[str, Callable[[str], str]] = {
        "differ in white space only": lambda text: " ".join(text.split()),
        "differ in invisible characters only": lambda text: "".join(c for c in text if not invisible(c)),
        "differ in Unicode form only": lambda text: unicodedata.normalize("NFKC", text),
        "differ in the kind of dash only": lambda text: text.translate(DASHES),
        "differ in case only": str.casefold,  # last, as it takes some ligatures apart, too
    }
    for said, way in ways.items():
        if way(one) == way(other):
            return said
    return "are the same number" if isinstance(key(one), Decimal) else "look alike"


def shown_apart(one: str, other: str) -> tuple[str, str]:
    """Two labels that look alike, so that a message shows the difference."""
    if unicodedata.normalize("NFKC", visible(one)) == unicodedata.normalize("NFKC", visible(other)):
        return ascii(one)[1:-1], ascii(other)[1:-1]
    return visible(one), visible(other)


def no_label(labels: Collection[str]) -> list[str]:
    """Which of "-1" and "-" mean no label beside these labels (which may hold them, or not).

    "-1" does beside words and whole numbers from 0 up, "-" beside all but "+"; neither where it and one other label
    are all there is, such as -1 and 1.
    """
    others = {label for label in labels if key(label) not in (key(MINUS_ONE), DASH)}
    if len(others) < 2:
        return []
    values = [value for label in others if (value := number(label)) is not None]
    # NaN and infinities aren't whole numbers.
    whole = all(value >= 0 and value.is_integer() for value in values)
    signs = any(set(fold(label)) == {"+"} for label in others)
    return [MINUS_ONE] * whole + [DASH] * (not signs)


def missing(labels: Collection[str]) -> str | None:
    """The first label that is a missing value's name, if any: "nan", and beside nothing but numbers "NA", too."""
    named = {label for label in labels if fold(label) in MISSING_NUMBERS}
    numbers = all(number(label) is not None for label in labels if label not in named)
    wanted = MISSING_NUMBERS if numbers and len(named) < len(labels) else MISSING
    return next((label for label in labels if fold(label) in wanted), None)
