"""What can go wrong, as exceptions, and the exit codes; reporting.py makes messages of them.

Everything a person can get wrong is a `UserError`: one line that says what is wrong and what to do, exit code 2.
"""

from __future__ import annotations

import re
import unicodedata

from pruners.errors import UserError as UserError
from pruners.errors import one_line as one_line
from pruners.errors import unknown as unknown

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


def other_version(name: object, found: object, known: int, anew: str) -> UserError:
    """The error for a file of another version than the one read; anew: how to make one, where this one is older.

    >>> str(other_version("x.smpmask", 1, 2, "export it again"))
    'x.smpmask has version 1 and this smp reads 2: export it again'
    """
    older = type(found) is int and found < known
    shown = one_line(repr(found), 40)
    return UserError(
        one_line(f"{name} has version {shown} and this smp reads {known}: {anew if older else 'upgrade smp'}")
    )


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
