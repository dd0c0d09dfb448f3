"""The cache of token ids: the same ids with and without, and never a damaged file's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from smpcli.encoding import tokens
from smpcli.encoding.batches import encode
from smpcli.modeling.backbone import load_tokenizer
from smpcli.tasks.data import Examples


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SMP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "WORTHWHILE", 1)
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def examples(sentiment: Any) -> Examples:
    texts = [text for text, _ in sentiment.rows[:60]]
    return Examples(texts, texts[::-1], [0, 1] * 30)


def plainly(tokenizer: Any, examples: Examples, length: int) -> dict[str, list[list[int]]]:
    """Tokenised one by one, without smp."""
    pairs: Sequence[str | None] = examples.pairs or [None] * len(examples)
    rows = [
        tokenizer(text, pair, truncation=True, max_length=length)
        for text, pair in zip(examples.texts, pairs, strict=True)
    ]
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_same_ids_with_and_without_the_cache(
    name: str, pico: Callable[[str], Path], examples: Examples, cache: Path
) -> None:
    tokenizer = load_tokenizer(str(pico(name)))
    expected = plainly(tokenizer, examples, 12)
    first, second = (encode(tokenizer, examples, 12) for _ in range(2))
    assert len(list(cache.iterdir())) == 1
    for found in (first, second):
        assert found.columns == expected
        assert list(found.columns) == [name for name in tokens.INPUTS if name in expected]
    one, other = (found.collate([3, 1, 40])[0] for found in (first, second))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_is_read_instead_of_tokenised_again(
    pico: Callable[[str], Path], examples: Examples, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(str(pico("bert")))
    first, _ = tokens.tokenise(tokenizer, examples, 12)
    monkeypatch.setattr(type(tokenizer), "__call__", lambda *args, **named: pytest.fail("tokenised again"))
    assert tokens.tokenise(load_tokenizer(str(pico("bert"))), examples, 12)[0] == first


def test_whatever_decides_the_ids_decides_the_file(
    pico: Callable[[str], Path], examples: Examples, cache: Path
) -> None:
    bert, mlm = (load_tokenizer(str(pico(name))) for name in ("bert", "roberta"))
    cut_left = load_tokenizer(str(pico("bert")))
    cut_left.truncation_side = "left"
    split = load_tokenizer(str(pico("bert")))
    split.split_special_tokens = True
    other = replace(examples, texts=[examples.texts[0] + " film", *examples.texts[1:]])
    single = replace(examples, pairs=None)
    for tokenizer, given, length in (
        (bert, examples, 12),
        (bert, examples, 13),
        (bert, other, 12),
        (bert, single, 12),
        (mlm, examples, 12),
        (cut_left, examples, 12),
        (split, examples, 12),
    ):
        assert tokens.tokenise(tokenizer, given, length)[0] == plainly(tokenizer, given, length)
    assert len(list(cache.iterdir())) == 7
    # Labels have no part in it.
    tokens.tokenise(bert, replace(examples, labels=[1] * 60), 12)
    assert len(list(cache.iterdir())) == 7


@pytest.mark.parametrize("damage", ["cut", "empty", "bit", "value", "other", "no digest", "folder"])
def test_a_damaged_file_is_made_anew(
    damage: str, pico: Callable[[str], Path], examples: Examples, cache: Path
) -> None:
    tokenizer = load_tokenizer(str(pico("bert")))
    expected, _ = tokens.tokenise(tokenizer, examples, 12)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[:-10])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "bit":
        file.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        arrays = load_file(file)
        if damage == "value":
            arrays["input_ids"] = np.flip(arrays["input_ids"]).copy()
        if damage == "other":
            arrays = {"something": np.arange(4)}
        save_file(arrays, file, None if damage == "no digest" else {"sha256": "0" * 64})
    assert tokens.tokenise(tokenizer, examples, 12)[0] == expected
    if damage != "folder":
        assert file.read_bytes() == whole
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_what_is_cut_off_is_counted(
    name: str, pairs: bool, side: str, pico: Callable[[str], Path], examples: Examples, cache: Path
) -> None:
    """The reference: each text (or pair) on its own, whole and cut by the tokenizer."""
    tokenizer = load_tokenizer(str(pico(name)))
    tokenizer.truncation_side = side
    given = examples if pairs else replace(examples, pairs=None)
    seconds = [("\n" if name == "gpt2" else "") + text for text in examples.pairs or []] if pairs else [None] * 60
    both = list(zip(given.texts, seconds, strict=True))
    whole = [len(tokenizer(*one)["input_ids"]) for one in both]
    cut = [len(tokenizer(*one, truncation=True, max_length=12)["input_ids"]) for one in both]
    expected = [a - b for a, b in zip(whole, cut, strict=True)]
    assert 0 < sum(lost > 0 for lost in expected) <= 60
    for _ in range(2):  # made, then from the cache
        assert tokens.tokenise(tokenizer, given, 12)[1].tolist() == expected
    found = encode(tokenizer, given, 12).cut
    assert found is not None
    assert (found.cut, found.examples) == (sum(lost > 0 for lost in expected), 60)
    assert (found.lost, found.tokens) == (sum(expected), sum(whole))


def test_a_cache_of_an_older_release_is_made_anew(
    pico: Callable[[str], Path], examples: Examples, cache: Path
) -> None:
    tokenizer = load_tokenizer(str(pico("bert")))
    columns, lost = tokens.tokenise(tokenizer, examples, 12)
    (file,) = cache.iterdir()
    arrays = {name: array for name, array in load_file(file).items() if name != "lost"}
    save_file(arrays, file, {"sha256": tokens._digest(arrays)})
    again = tokens.tokenise(tokenizer, examples, 12)
    assert again[0] == columns and again[1].tolist() == lost.tolist()


def test_a_cache_that_cannot_be_written_is_done_without(
    pico: Callable[[str], Path], examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "WORTHWHILE", 1)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SMP_CACHE_DIR", str(tmp_path / "file" / "cache"))
    tokenizer = load_tokenizer(str(pico("bert")))
    assert tokens.tokenise(tokenizer, examples, 12)[0] == plainly(tokenizer, examples, 12)
