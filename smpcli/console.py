"""The only module that prints. stdout is data, stderr is talk."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from pruners.errors import joined

# Characters of an error's line, and of its problem at least: a remedy is never cut.
MESSAGE, LEAST = 300, 100


def quieten_libraries() -> None:
    """Silence the libraries' own bars and advice; set before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # With telemetry, the hub's client asks the network about its surroundings even for what is in its cache.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def speaks() -> bool:
    """Of the processes that `accelerate launch` starts, the first speaks for all."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def data(text: str) -> None:
    """A line of result, on stdout."""
    if speaks():
        print(text, flush=True)


def data_json(value: Any) -> None:
    """A result as JSON, on stdout."""
    data(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def data_line(value: Any) -> None:
    """A result as one line of JSON, on stdout."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Some readers end a line at these, too.
    for end in "\x85\u2028\u2029":
        text = text.replace(end, f"\\u{ord(end):04x}")
    data(text)


def show(renderable: Any) -> None:
    """A rich table or text on stdout, as wide as the terminal (100 columns where there is none)."""
    from rich.console import Console

    if not speaks():
        return
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 100
    Console(width=width, highlight=False, emoji=False).print(renderable)


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A plain table; cells are text, not markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def talk(text: str) -> None:
    """A line for the person who waits, on stderr."""
    if speaks():
        print(text, file=sys.stderr, flush=True)


def error(problem: str, remedy: str = "") -> None:
    """The one line of an error, on stderr."""
    talk(f"error: {error_line(problem, remedy)}")


def error_line(problem: str, remedy: str = "") -> str:
    """An error as one line. Of a long problem the middle goes: it starts with the place and ends with the reason."""
    problem, remedy = (" ".join(text.split()) for text in (problem, remedy))
    room = max(MESSAGE - len(joined("", remedy)), LEAST)
    if len(problem) > room:
        problem = f"{problem[: room * 3 // 5]} … {problem[3 + room * 3 // 5 - room :]}"
    return joined(problem, remedy)
