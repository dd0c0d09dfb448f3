"""What can go wrong with a method, its settings or scores, or a name that a person gave."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: `problem` says what is wrong, `remedy` what to do, where there is something; each is one line.

    >>> str(UserError("no device mps", "use --device cpu"))
    'no device mps; use --device cpu'
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return joined(self.problem, self.remedy)


class PrunerError(UserError):
    """A method that can't be used as asked."""


class SettingError(ValueError):
    """A method's setting `name` that is out of range; `problem`: "must be at least 0, not -1"."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.name} {self.problem}"


class ScoreError(ValueError):
    """Scores that can't be ranked."""


def joined(problem: str, remedy: str) -> str:
    """What is wrong and what to do, as one text."""
    return f"{problem}; {remedy}" if remedy else problem


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
        remedy = f"did you mean '{near[0]}'?"
    elif known:
        remedy = "known: " + ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    else:
        return UserError(f"unknown {kind} '{name}'", hint)
    return UserError(f"unknown {kind} '{name}'", f"{remedy} ({hint})" if hint else remedy)


def one_line(text: str, limit: int = 300) -> str:
    """Fold white space so that a message stays one line of at most `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
