"""YAML 1.2 of plain values: what is taken, what is refused, and that what is written is read back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from smpcli.errors import UserError
from smpcli.yaml_text import YAML_DEPTH, BrokenYaml, parse_yaml, read_yaml, write_yaml, yaml_text


@pytest.mark.parametrize(
    "text",
    [
        "a: &x 1\nb: *x", "[" * 50_000, "{a: " * 1000, "- " * 1000, "x: " + "9" * 5000, "x: 18446744073709551616",
        "x: 2001-13-41", "!!python/object/apply:os.system [ls]", "x: !!binary abc", "\0", "x: \ud800",
        "#" * 60_000, "a: 1\na: 2", "x: !mine 3",
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text: str) -> None:
    with pytest.raises(BrokenYaml):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # Numbers and words of YAML 1.2's core schema (10.3.2), where YAML 1.1 has other ones.
        ("1e-3", 0.001), ("1E5", 100_000.0), (".5", 0.5), ("-2.5", -2.5), ("0x1F", 31), ("0o17", 15), ("017", 17),
        ("yes", "yes"), ("No", "No"), ("on", "on"), ("OFF", "OFF"), ("1:30", "1:30"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("18446744073709551615", 2**64 - 1),
    ],
)  # fmt: skip
def test_numbers_and_words(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


def test_depth_and_what_is_no_file(tmp_path: Path) -> None:
    deep = "x: " + "[" * (YAML_DEPTH - 2) + "1" + "]" * (YAML_DEPTH - 2)
    assert json.dumps(parse_yaml(deep)).count("[") == YAML_DEPTH - 2
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="is not a file"):
        read_yaml(tmp_path / "pipe.yaml")


def test_a_fault_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: movies\nseed: [1, 2\n")
    with pytest.raises(UserError, match=r"broken YAML in .*a\.yaml, line 3: "):
        read_yaml(tmp_path / "a.yaml")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    value = {
        "b": 1e-5, "a": [1, 2.5, True, None], "words": ["Yes", "on", "1e-3", "0o17", "null", "~"],
        "others": ["2026-01-01", " x", ""], "none": {}, "empty": [],
        "nested": {"text": "a: b # c", "lines": "one\ntwo\n", "long": "word " * 60, "ü": "ß"},
    }  # fmt: skip
    write_yaml(tmp_path / "a.yaml", value)
    assert read_yaml(tmp_path / "a.yaml") == value
    # Another program's reader takes YAML 1.1.
    assert yaml.safe_load((tmp_path / "a.yaml").read_text(encoding="utf-8")) == value
    assert list(read_yaml(tmp_path / "a.yaml")) == list(value)
    assert max(map(len, yaml_text({"x": "word " * 60}).splitlines())) <= 115
