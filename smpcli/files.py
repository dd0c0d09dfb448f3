"""Every file that we write appears whole or not at all: temporary file beside it, fsync, rename."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from smpcli.errors import UserError, one_line


@contextmanager
def replacing(path: Path, flag: str = "--output") -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes `path`, on failure it is gone.

    Raises `UserError` when the folder can't be written; `flag` is the option that names another place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise cannot_write(path.parent, error, flag) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_folder(path.parent)
    except Exception as error:
        if (refused := refusal(error)) is None:
            raise
        raise cannot_write(path, refused, flag) from error
    finally:
        with suppress(OSError):  # not there after a success; what can't be removed goes at the next start
            temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make the folder's names (a rename in it) outlive a power cut, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold what is at `path` for this process alone; raises `UserError` at once where another one has it.

    What a killed process left of its writing beside `path` is removed. The lock is the kernel's, so it never outlives
    its process; its file `.NAME.lock` goes with it.
    """
    from filelock import FileLock, Timeout

    lock = path.parent / f".{path.name}.lock"
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock, blocking=False)
        held.acquire()
    except Timeout:
        raise UserError(
            f"another process is writing {path}", "wait for it, or choose another place with --output"
        ) from None
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        with suppress(OSError):
            remove_temporaries(path.parent, path.name)
        yield
    finally:
        # While it is held: who has opened this file meanwhile sees that it is gone, and makes a new one.
        with suppress(OSError):
            lock.unlink()
        held.release()
        with suppress(OSError):  # what was made for something that then was refused goes again, while empty
            for folder in made:
                folder.rmdir()


def remove_temporaries(folder: Path, *names: str) -> None:
    """Remove what killed processes left of writing files of these names in `folder`."""
    for entry in folder.iterdir():
        if not is_temporary(entry.name, names):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def is_temporary(name: str, of: tuple[str, ...]) -> bool:
    """Whether `replacing` made this name for one of the files `of`: ".result.json.x1y2z3.tmp"."""
    return name.endswith(".tmp") and name.startswith(tuple(f".{one}." for one in of))


def refusal(error: Exception) -> OSError | None:
    """The system's refusal to write behind an error: itself, or what a library written in Rust says of it.

    safetensors and tokenizers raise errors of their own: "Error while serializing: … (os error 28)".
    """
    if isinstance(error, OSError):
        return error
    if type(error) is not Exception and type(error).__name__ != "SafetensorError":
        return None
    if code := re.search(r"\(os error (\d+)\)", str(error)):
        return OSError(int(code[1]), os.strerror(int(code[1])))
    return OSError(one_line(str(error))) if "while serializing" in str(error) else None


class WriteError(UserError):
    """A place where nothing can be written, and why not."""

    def __init__(self, path: Path, reason: str, remedy: str) -> None:
        super().__init__(f"can't write {path}: {reason}", remedy)
        self.path = path
        self.reason = reason


def cannot_write(path: Path, error: OSError, flag: str = "--output") -> WriteError:
    return WriteError(path, error.strerror or str(error), f"choose another place with {flag}")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def expanded(path: str | Path) -> Path:
    """With a leading ~ or ~user in full. A user who isn't there stays, as in a shell; `Path.expanduser` raises."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def is_file(path: Path) -> bool:
    """As `Path.is_file`, but False for what no system takes for a path (a name of 300 characters)."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """As `Path.is_dir`, likewise."""
    try:
        return path.is_dir()
    except OSError:
        return False


def harmless_cell(text: str) -> str:
    """A CSV cell that no spreadsheet takes for a formula (OWASP, "CSV injection"); numbers stay as they are."""
    dangerous = text.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{text}" if dangerous and not re.fullmatch(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", text) else text
