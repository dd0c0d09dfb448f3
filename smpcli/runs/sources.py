"""The files of one's own that a run was made from: recorded, so that a run can say later which one has moved."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from smpcli.errors import UserError
from smpcli.runs.schema import FileInfo

if TYPE_CHECKING:
    from smpcli.settings import Settings


def files_of(settings: Settings) -> dict[str, FileInfo]:
    """Path -> bytes and sha256 of a task file and of the data files that it, or --task, names; none for built-ins."""
    source = settings.task.source
    named = [Path(settings.run.task)] if Path(settings.run.task).is_absolute() else []
    named += [Path(path) for path in (source.file, settings.run.dev_file or source.dev_file) if path]
    return {str(path.absolute()): _state(path) for path in named}


def changes(files: dict[str, FileInfo]) -> tuple[list[str], list[str]]:
    """Of the files recorded by a run: those that aren't there any more, and those that hold something else now."""
    gone = [name for name in files if not Path(name).is_file()]
    changed = [name for name, was in files.items() if name not in gone and _state(Path(name)) != was]
    return gone, changed


def _state(path: Path) -> FileInfo:
    try:
        with path.open("rb") as file:
            return FileInfo(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=file.tell())
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from error
