"""What a page of docs/ tells a person to write and to run, so that a test can do both."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from functools import partial
from pathlib import Path

from smpcli.main import app
from smpcli.reporting import guarded


def page(name: str) -> str:
    return (Path(__file__).parents[1] / "docs" / name).read_text(encoding="utf-8")


def files_of(text: str) -> dict[str, str]:
    """Each block that follows a line which ends in its file's name."""
    return dict(re.findall(r"`([\w./-]+\.\w+)`:\n\n```\w+\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL))


def commands_of(text: str) -> list[tuple[str, list[str]]]:
    """Each `smp` command of the console blocks, with the lines that the page shows of what it says."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return [(command, shown) for command, shown in found if command.startswith("smp ")]


def run_commands(text: str, called: dict[str, str]) -> None:
    """Run a page's commands in this folder, as a shell would. `called`: what goes by another name here.

    What the page shows without a figure in it must really be said: headings, phases, verdicts.
    """
    for command, shown in commands_of(text):
        words = [
            found
            for word in shlex.split(command)[1:]
            for found in (sorted(map(str, Path().glob(word))) if "*" in word else [word])
        ]
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = guarded(partial(app, args=words, standalone_mode=False))
        assert code == 0, f"{command}\n{said.getvalue()}"
        for line in shown:
            if not re.search(r"\d|^…?$|─", line):
                for old, new in called.items():
                    line = line.replace(old, new)
                assert _spaced(line) in _spaced(said.getvalue()), f"{command}\n{said.getvalue()}"


def narrow(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _spaced(text: str) -> str:
    return " ".join(text.split())
