"""The short form of tests/fuzz/fuzz.py: every reader on a fixed set of mutants, and hypothesis on what is nested."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import fuzz
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import READERS, Attempt

RUNS = 300
# These build a model, or read a grid of recipes, for each.
SLOW = {"weights": 60, "config": 100, "sweep": 100, "tokenizer": 100, "tokenizer-config": 100}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_takes_or_refuses(name: str) -> None:
    line, problems = fuzz.fuzz(name, SLOW.get(name, RUNS), seed=1)
    assert problems == [], line
    # A fuzzer whose files are all refused at the first byte finds nothing.
    assert int(line.split(" different")[0].rsplit(" ", 1)[1]) >= 2


CORPUS = sorted((Path(__file__).resolve().parent / "corpus").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_what_was_found_once(path: Path, tmp_path: Path) -> None:
    """READER-WHAT: files that once were a crash, or claim more than there is; now read, or refused by a line."""
    name = max((name for name in READERS if path.name.startswith(f"{name}-")), key=len)
    attempt = Attempt(READERS[name], tmp_path)
    for data in READERS[name].seeds():
        attempt(data)  # imports are no part of it
    before, started = fuzz.peak(), time.process_time()
    attempt(path.read_bytes())
    assert time.process_time() - started < fuzz.SECONDS
    assert fuzz.peak() - before < fuzz.MEGABYTES


def test_the_fuzzer_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader with a crash, a slow path and a hungry one, each a single mutation away."""
    kept: list[bytes] = []

    def read(path: Path) -> None:
        data = path.read_bytes()
        if data.startswith(b"\0"):
            raise KeyError("crash")
        if data.endswith(b"\0"):
            started = time.process_time()
            while time.process_time() - started < 0.06:
                pass
        if b"\xff" in data:
            kept.append(b"\1" * (30 * 2**20))

    monkeypatch.setitem(READERS, "broken", type(READERS["csv"])("broken", "x", read, lambda: [b"good" * 10]))
    monkeypatch.setattr(fuzz, "FOUND", tmp_path)
    monkeypatch.setattr(fuzz, "SECONDS", 0.05)
    monkeypatch.setattr(fuzz, "MEGABYTES", 20)
    _, problems = fuzz.fuzz("broken", 150, seed=0)
    text = " ".join(problems)
    assert "KeyError at read" in text and "took 0.1 s" in text and " MB (" in text
    assert list(tmp_path.iterdir())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.sampled_from(
    "method sparsity seed epochs max_steps batch_size head init factored scores_lr schedule device task model "
    "checkpoint_every dropout ramp_start data_dir label_column".split()
)


@given(st.dictionaries(SETTINGS | st.text(max_size=5), values, max_size=4))
@settings(max_examples=150)
def test_any_settings(tmp_path_factory: pytest.TempPathFactory, found: dict[str, Any]) -> None:
    for name in ("settings", "recipe"):
        folder = tmp_path_factory.getbasetemp() / "any"
        Attempt(READERS[name], folder)(yaml.safe_dump({"task": "movies", **found}, allow_unicode=True).encode())


PLACES = [
    *[("run", "seed"), ("run",), ("metrics",), ("weights", "kept"), ("files",), ("schema",)],
    ("training", "metric_history"),
]


@given(st.sampled_from(PLACES), values)
@settings(max_examples=150)
def test_any_result(tmp_path_factory: pytest.TempPathFactory, place: tuple[str, ...], value: Any) -> None:
    (seed,) = READERS["result"].seeds()
    result = json.loads(seed)
    *path, last = place
    block = result
    for key in path:
        block = block[key]
    block[last] = value
    text = json.dumps(result, default=str).encode()
    for name in ("result", "compare"):
        Attempt(READERS[name], tmp_path_factory.getbasetemp() / name)(text)


@given(st.lists(st.dictionaries(st.sampled_from(["text", "label", "sentence", "x"]), values, max_size=4), max_size=6))
@settings(max_examples=150)
def test_any_rows(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    text = "\n".join(json.dumps(row, default=str) for row in rows).encode()
    Attempt(READERS["jsonl"], tmp_path_factory.getbasetemp() / "rows")(text)
