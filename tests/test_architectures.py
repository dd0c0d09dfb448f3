"""docs/models.md says of architectures what benchmarks/architectures.py finds; here for one of each kind."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("architectures", ROOT / "benchmarks" / "architectures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documented() -> dict[str, str]:
    """Model type -> the row of the table that it stands in."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    table = text.split("benchmarks/architectures.py", 1)[1].split("|---|---|\n", 1)[1].split("\n\n", 1)[0]
    found: dict[str, str] = {}
    for line in table.splitlines():
        row, names = (part.strip() for part in line.strip("|").split("|"))
        found |= {name: row for name in names.split(", ") if re.fullmatch(r"[\w-]+", name)}
    return found


@pytest.mark.parametrize("name", ["bert", "roformer", "fnet", "reformer", "mixtral"])
def test_the_table_says_what_is_found(script: Any, name: str) -> None:
    found = script.apart(lambda: script.examine(name), 300)
    assert found["model"] == "ok"
    rows = {script._row(found[head]) for head in script.HEADS if head in found}
    assert rows == {documented()[name]}


def test_every_type_of_transformers_is_in_the_table(script: Any) -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    names = set(re.findall(r"[\w-]+", text))
    import transformers

    if f"transformers {transformers.__version__}" in text:
        assert script.model_types() - names == set()
    assert {"bert", "roformer", "fnet"} <= script.model_types()


def test_refusals_are_told_apart_by_words_that_the_program_says(script: Any) -> None:
    said = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "smpcli").rglob("*.py"))
    assert [words for words in script.REASONS if words not in said] == []
