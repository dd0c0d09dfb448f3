"""What can go wrong, as exceptions, and the exit codes; reporting.py makes messages of them.

Everything a person can get wrong is a `UserError`: what is wrong and what to do, exit code 2.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruners.errors import UserError as UserError
from pruners.errors import joined as joined
from pruners.errors import one_line as one_line
from pruners.errors import unknown as unknown

if TYPE_CHECKING:
    from pydantic import ValidationError

EXIT_INTERNAL = 1
EXIT_USER = 2
EXIT_SOME_FAILED = 3  # a sweep did its part, but not all of its runs did
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM was obeyed: `message` is one line, `resume` the command that goes on.

    No `Exception`, so that nobody who handles errors takes it for one of them.
    """

    def __init__(self, code: int, message: str, resume: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.resume = resume


def terminate(number: int, frame: object) -> None:
    """A handler of SIGTERM for when nothing is to be saved."""
    raise Interrupted(EXIT_TERMINATED, "terminated; nothing was finished")


def other_version(name: object, found: object, known: int, remake: str) -> UserError:
    """The error for a file of another version than the one read; remake: what to do where it is older.

    >>> str(other_version("x.smpmask", 1, 2, "export it again"))
    'x.smpmask has version 1 and this smp reads 2; export it again'
    """
    older = type(found) is int and found < known
    shown = one_line(repr(found), 40)
    return UserError(
        one_line(f"{name} has version {shown} and this smp reads {known}"), remake if older else "upgrade smp"
    )


@dataclass(frozen=True)
class Invalid:
    """The first thing that pydantic found. key: where, "a.b.0"; text: what is wrong; more: how many others there are.

    raised: the exception of a check of ours, whose message is the text.
    """

    key: str
    text: str
    more: int
    kind: str
    location: tuple[int | str, ...]
    value: Any
    raised: Exception | None

    @classmethod
    def of(cls, error: ValidationError) -> Invalid:
        first, *others = error.errors(include_url=False)
        raised = first.get("ctx", {}).get("error")
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        text = str(raised) if raised else first["msg"]
        return cls(key, text, len(others), first["type"], first["loc"], first["input"], raised)

    @property
    def and_more(self) -> str:
        """How many others there are, to append."""
        return f" (and {self.more} more)" if self.more else ""

    def __str__(self) -> str:
        return f"{self.key}: {self.text}{self.and_more}" if self.key else f"{self.text}{self.and_more}"


def invisible(char: str) -> bool:
    """White space but " ", control and format characters, and what else takes no place on its own.

    The last are variation selectors, joiners and fillers: Unicode's Default_Ignorable_Code_Point beside category Cf.
    """
    if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp"):
        return True
    return (char.isspace() and char != " ") or bool(_IGNORABLE.match(char))


_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef\u2800]"
)


def visible(text: str, limit: int = 60) -> str:
    r"""Words of a person's data for a message: one line, with escapes for what can't be seen or counted.

    >>> print(visible("so\u200b so  and"))
    so\u200b so\x20\x20and
    """
    text = re.sub(" {2,}|^ | $", lambda found: "\\x20" * len(found[0]), text)
    shown = "".join(char.encode("unicode_escape").decode() if invisible(char) else char for char in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
