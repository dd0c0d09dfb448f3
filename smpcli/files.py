"""Every file that we write appears whole or not at all: temporary file beside it, fsync, rename."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from smpcli.errors import UserError


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
    except OSError as error:
        raise cannot_write(path, error, flag) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def cannot_write(path: Path, error: OSError, flag: str = "--output") -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"can't write {path}: {reason}; choose another place with {flag}")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; broken YAML is named with its line."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} isn't UTF-8 text: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise UserError(f"broken YAML in {path}{where}: {problem}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a YAML mapping (key: value lines), not {type(value).__name__}")
    return value
