"""The only place where an exception becomes a message and an exit code.

Everything a person can get wrong is a `UserError`: one line that says what is wrong and what to do, exit code 2.
Everything else is a fault of ours: exit code 1, one line, and the traceback saved to a file.
"""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

EXIT_INTERNAL = 1
EXIT_USER = 2
EXIT_SOME_FAILED = 3  # a sweep did its part, but not all of its runs did
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class UserError(Exception):
    """Bad input: `message` is one line, says what is wrong and names a way out."""


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


def save_traceback(error: BaseException) -> Path:
    """Write the full traceback of an internal fault to a file of its own and return its path."""
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile(
        "w", prefix="smp-traceback-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    return Path(file.name)


def one_line(text: str, limit: int = 300) -> str:
    """Fold white space so that a message stays one line of at most `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def guarded(action: Callable[[], object]) -> int:
    """Run `action`; every exception becomes one line on stderr and an exit code."""
    from pruners.registry import PrunerError
    from smpcli import console

    try:
        code = action()
        if code == EXIT_INTERRUPTED:  # Typer has caught the KeyboardInterrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except (UserError, PrunerError) as error:
        console.error(str(error))
        return EXIT_USER
    except KeyboardInterrupt:
        console.error("interrupted; nothing was finished")
        return EXIT_INTERRUPTED
    except Interrupted as stop:
        console.error(str(stop))
        if stop.resume:
            # Not part of the error's line, which has an end.
            console.talk(f"to go on: {stop.resume}")
        return stop.code
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`).
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERNAL
    except OSError as error:
        if error.filename is None:
            return _internal_fault(error)
        console.error(
            f"can't use {one_line(str(error.filename), 120)}: {error.strerror or error}; is it the right path?"
        )
        return EXIT_USER
    except Exception as error:
        # Typer's own usage errors have no public class in common; this method marks them.
        if hasattr(error, "format_message"):
            return _usage_error(error)
        return _internal_fault(error)


def _internal_fault(error: Exception) -> int:
    from smpcli import console

    console.error(
        f"internal fault ({type(error).__name__}: {one_line(str(error), 120)}); "
        f"the full traceback is in {save_traceback(error)}: please report it"
    )
    return EXIT_INTERNAL


def _usage_error(error: Any) -> int:
    from smpcli import console

    message = str(error.format_message())
    # `smp` alone, and `smp COMMAND` where it shows help, has printed its help already.
    if message:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "smp"
        console.error(f"{message.rstrip('.')}; see `{where} --help`")
    return EXIT_USER
