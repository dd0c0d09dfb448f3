"""YAML 1.2 of plain values, which may be a stranger's: recipes, tasks, sweeps, settings and --set.

In YAML 1.2 `Yes`, `No`, `on` and `off` are words, and 1e-3 is a number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from smpcli.errors import UserError, one_line
from smpcli.files import write_text

# Recipes, tasks and settings are far smaller; reading YAML takes about a second for so much.
YAML_LIMIT = 50_000
YAML_DEPTH = 20
# Columns after which a long text goes on in the next line.
WIDTH = 110


class BrokenYaml(ValueError):
    """A text that isn't YAML of plain values. `problem` is one line; `line` counts from 1, None where not known."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


class _Composer(Composer):
    """No aliases, with which a small file can hold a billion values, and no deep nesting."""

    level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):
            raise self._refused("aliases (*name) aren't taken: write the value out")
        if self.level >= YAML_DEPTH:
            raise self._refused(f"nested deeper than {YAML_DEPTH} levels")
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    def _refused(self, problem: str) -> MarkedYAMLError:
        return MarkedYAMLError(problem=problem, problem_mark=self.parser.peek_event().start_mark)


class _Constructor(SafeConstructor):
    """Whole numbers of 64 bits at most."""

    def construct_yaml_int(self, node: Any) -> int:
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > 64:
            raise MarkedYAMLError(problem="a whole number of more than 64 bits", problem_mark=node.start_mark)
        return value


_Constructor.add_constructor("tag:yaml.org,2002:int", _Constructor.construct_yaml_int)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises `BrokenYaml`, with the line where there is one."""
    if len(text) > YAML_LIMIT:
        raise BrokenYaml(f"longer than {YAML_LIMIT:,} characters")
    reader = YAML(typ="safe", pure=True)
    reader.Composer, reader.Constructor = _Composer, _Constructor
    try:
        return reader.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise BrokenYaml(one_line(str(problem), 120), mark.line + 1 if mark else None) from None
    except (ValueError, RecursionError, OverflowError, TypeError, AttributeError, KeyError) as error:
        # A date that isn't one, a number of too many digits, a set as a key.
        raise BrokenYaml(one_line(str(error), 80)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; broken YAML is named with its line. Raises `UserError`."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a file", "a YAML file is needed")
        with path.open("rb") as file:
            text = file.read(4 * YAML_LIMIT + 1).decode("utf-8")
        value = parse_yaml(text)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} isn't UTF-8 text", "save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror}") from error
    except BrokenYaml as error:
        where = f", line {error.line}" if error.line else ""
        raise UserError(f"broken YAML in {path}{where}: {error.problem}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a YAML mapping (key: value lines), not {type(value).__name__}")
    return value


class _Dumper(yaml.SafeDumper):
    """What it writes says the same in YAML 1.1, which most other readers read, and in 1.2."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        node = super().represent_str(data)
        # 1e-3 and 0o17 are words in YAML 1.1, which PyYAML writes, and numbers in 1.2.
        if node.style is None and re.fullmatch(r"[-+.\w]+", data) and not isinstance(parse_yaml(data), str):
            node.style = "'"
        return node


_Dumper.add_representer(str, _Dumper.represent_str)


def yaml_text(value: Any) -> str:
    """A plain value as YAML, keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return text


def write_yaml(path: Path, value: Any) -> None:
    """Write a plain value as a YAML file, whole or not at all."""
    write_text(path, yaml_text(value))
