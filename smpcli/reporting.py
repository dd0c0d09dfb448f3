"""The only place where an exception becomes a message and an exit code.

Bad input is one line and exit code 2. Everything else is a fault of ours: exit code 1, one line, and the traceback
saved to a file.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from smpcli import console
from smpcli.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USER, Interrupted, UserError, one_line

Tell = Callable[[str, str], None]


def guarded(action: Callable[[], object], tell: Tell = console.error) -> int:
    """Run `action`; every exception becomes an exit code, and a problem and a remedy that `tell` is told."""
    try:
        code = action()
        if code == EXIT_INTERRUPTED:  # Typer has caught the KeyboardInterrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except UserError as error:
        tell(error.problem, error.remedy)
        return EXIT_USER
    except KeyboardInterrupt:
        tell("interrupted", "nothing was finished")
        return EXIT_INTERRUPTED
    except Interrupted as stop:
        tell(str(stop), "")
        if stop.resume:
            # Not part of the error's line, which has an end.
            console.talk(f"to go on: {stop.resume}")
        return stop.code
    except BrokenPipeError:
        # The reader of our output has seen enough (`| head`).
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INTERNAL
    except OSError as error:
        if error.filename is None:
            return _internal_fault(error, tell)
        tell(f"can't use {one_line(str(error.filename), 120)}: {error.strerror or error}", "is it the right path?")
        return EXIT_USER
    except Exception as error:
        # Typer's own usage errors have no public class in common; this method marks them.
        if hasattr(error, "format_message"):
            return _usage_error(error, tell)
        return _internal_fault(error, tell)


def _internal_fault(error: Exception, tell: Tell) -> int:
    problem = f"internal fault ({type(error).__name__}: {one_line(str(error), 120)})"
    tell(problem, f"the full traceback is in {save_traceback(error)}: please report it")
    return EXIT_INTERNAL


def _usage_error(error: Any, tell: Tell) -> int:
    message = str(error.format_message())
    # `smp` alone, and `smp COMMAND` where it shows help, has printed its help already.
    if message:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "smp"
        tell(message.rstrip("."), f"see `{where} --help`")
    return EXIT_USER


def save_traceback(error: BaseException) -> Path:
    """Write the full traceback of an internal fault to a file of its own and return its path."""
    text = "".join(traceback.format_exception(error))
    with tempfile.NamedTemporaryFile(
        "w", prefix="smp-traceback-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    return Path(file.name)
