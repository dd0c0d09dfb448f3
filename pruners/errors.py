"""What can go wrong with a method, its scores, or a name that a person gave."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: `message` is one line, says what is wrong and names a way out."""


class PrunerError(UserError):
    """A method that can't be used as asked."""


class ScoreError(ValueError):
    """Scores that can't be ranked."""


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that isn't there, with the nearest one that is.

    >>> str(unknown("method", "mop", ["smp", "dense"], "`smp methods` lists them"))
    "unknown method 'mop'; did you mean 'smp'? (`smp methods` lists them)"
    """
    known = sorted(known)
    name = one_line(name, 60)
    by_lower = {one.lower(): one for one in known}
    near = [by_lower[one] for one in difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)]
    if near:
        suggestion = f"; did you mean '{near[0]}'?"
    else:
        shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
        suggestion = f"; known: {shown}" if known else ""
    return UserError(f"unknown {kind} '{name}'{suggestion}" + (f" ({hint})" if hint else ""))


def one_line(text: str, limit: int = 300) -> str:
    """Fold white space so that a message stays one line of at most `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
