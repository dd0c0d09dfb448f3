"""An export's tokenizer: it cuts as training did, in whatever library reads it, and equal runs give equal bytes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from smpcli import load, prune
from smpcli.encoding import tokens
from smpcli.evaluation.recompute import reopen

LENGTH = 24  # of the runs here; the pico models have 40 positions
GOOD, BAD = "a superb and clever film", "the dull script is awful"
# One is longer than LENGTH, two are longer than the positions; the end says the opposite of the beginning.
TEXTS = [GOOD, " ".join([GOOD] * 5 + [BAD]), " ".join([BAD] * 4 + [GOOD] * 12), " ".join([GOOD] * 4 + [BAD] * 12)]


def make_run(task: Path | str, model: Path, output: Path, **settings: Any) -> Path:
    short = {"sparsity": 0.8, "max_steps": 2, "batch_size": 8, "max_length": LENGTH}
    return prune(str(task), model=str(model), output=output, **short | settings).path


def changed(base: Path, folder: Path, **keys: Any) -> Path:
    """A copy of a model whose tokenizer's configuration says something else."""
    shutil.copytree(base, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **keys}), encoding="utf-8")
    return folder


def snippet(folder: Path) -> Any:
    """`classify` as the model card makes it."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    made = code[: code.index("classify(")].replace("path/of/this/folder", str(folder))
    names: dict[str, Any] = {}
    exec(made, names)
    return names["classify"]


def assert_alike(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Answers of a pipeline and of `predict`."""
    for one, other in zip(found, expected, strict=True):
        if "label" in other:
            assert one["label"] == other["label"]
        assert one["score"] == pytest.approx(other.get("score", other.get("value")), abs=1e-5)


@pytest.mark.parametrize(
    ("model", "task", "head"),
    [
        ("bert", "csv", "prototype"),
        ("bert", "scores", "prototype"),
        ("roberta", "csv", "classifier"),
        ("distilbert", "csv", "classifier"),
        ("gpt2", "csv", "classifier"),
        ("llama", "csv", "prototype"),
    ],
)
def test_the_card_s_snippet_answers_long_texts_as_predict_does(
    pico: Any, sentiment: Any, export_here: Any, tmp_path: Path, model: str, task: str, head: str
) -> None:
    """One by one and in a batch; the base's tokenizer cuts and pads on the left, as many a decoder's does."""
    base = changed(pico(model), tmp_path / "base", padding_side="left", truncation_side="left")
    run = make_run(getattr(sentiment, task), base, tmp_path / "runs", head=head)
    folder = export_here(run, "hf", output=tmp_path / "folder").path
    classify, expected = snippet(folder), load(run).predict(TEXTS)
    assert_alike(classify(TEXTS), expected)
    assert_alike(classify(TEXTS, batch_size=len(TEXTS)), expected)


@pytest.mark.parametrize("model", ["bert", "gpt2"])
def test_the_card_s_snippet_answers_long_pairs_as_predict_does(
    pico: Any, sentiment: Any, export_here: Any, tmp_path: Path, model: str
) -> None:
    rows = [(text, other[0], label) for (text, label), other in zip(sentiment.rows, sentiment.rows[5:], strict=False)]
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence1", "sentence2", "label"), *rows[:60]])
    run = make_run(tmp_path / "pairs.csv", pico(model), tmp_path / "runs", head="classifier")
    folder = export_here(run, "hf", output=tmp_path / "folder").path
    seconds = TEXTS[::-1]
    before = "\n" if model == "gpt2" else ""
    found = snippet(folder)([{"text": a, "text_pair": before + b} for a, b in zip(TEXTS, seconds, strict=True)])
    assert_alike(found, load(run).predict(TEXTS, seconds))


@pytest.fixture
def base(pico: Any, tmp_path: Path) -> Path:
    """As many published ones, its tokenizer.json pads every text to one length and cuts at another."""
    folder = changed(pico("bert"), tmp_path / "base", model_max_length=512)
    stored = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored.enable_padding(length=33, pad_token="[PAD]")
    stored.enable_truncation(35)
    stored.save(str(folder / "tokenizer.json"))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("tokenizer")}


def test_every_format_holds_the_same_tokenizer_whatever_was_cached(
    base: Path, sentiment: Any, export_here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "WORTHWHILE", 1)
    monkeypatch.setenv("SMP_CACHE_DIR", str(tmp_path / "cache"))
    run = make_run(sentiment.csv, base, tmp_path / "runs")
    formats = ("hf", "compact", "sparse", "onnx")
    made = {}
    for state in ("cold", "warm"):
        for format in formats:
            if state == "cold":
                shutil.rmtree(tmp_path / "cache")
            made[state, format] = export_here(run, format, output=tmp_path / f"{state}-{format}").path
    expected = files_of(made["cold", "hf"])
    assert sorted(expected) == ["tokenizer.json", "tokenizer_config.json"]
    assert all(files_of(path) == expected for path in made.values())
    config = json.loads(expected["tokenizer_config.json"])
    assert config["model_max_length"] == LENGTH
    # Neither where the base lay nor how it was fetched.
    assert str(tmp_path) not in str(config) and not config.keys() & {"is_local", "local_files_only", "max_length"}
    # What reads tokenizer.json alone: nothing is padded, and long texts are cut as in training.
    alone = Tokenizer.from_str(expected["tokenizer.json"].decode())
    assert alone.padding is None
    assert len(alone.encode("a film").ids) == 4
    opened = reopen(run)
    trained = opened.tokenizer(TEXTS, truncation=True, max_length=LENGTH)["input_ids"]
    assert [alone.encode(text).ids for text in TEXTS] == trained
    assert [len(ids) for ids in trained] == [7, LENGTH, LENGTH, LENGTH]
    # And what reads all of it.
    assert AutoTokenizer.from_pretrained(made["cold", "hf"])(TEXTS, truncation=True)["input_ids"] == trained


def test_no_export_reads_more_than_there_are_positions_for(
    pico: Any, sentiment: Any, export_here: Any, tmp_path: Path
) -> None:
    """Training's 128 tokens did no harm to its short texts; of RoBERTa's 40 positions 2 are the padding's."""
    run = make_run(sentiment.csv, pico("roberta"), tmp_path / "runs", max_length=128, head="classifier")
    folder = export_here(run, "hf", output=tmp_path / "folder").path
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 38
    assert len(snippet(folder)(TEXTS)) == len(TEXTS)


def test_a_span_task_s_tokenizer_makes_the_windows(pico: Any, quiz: Path, export_here: Any, tmp_path: Path) -> None:
    run = make_run(quiz, pico("bert"), tmp_path / "runs", stride=6)
    folder = export_here(run, "hf", output=tmp_path / "folder").path
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    question, context = "which one is good", TEXTS[2]
    first = alone.encode(question, context)
    found = [first.ids, *(part.ids for part in first.overflowing)]
    assert len(found) > 3
    assert found == load(run).windows([question], [context]).columns["input_ids"]


PLAIN = ["attention_mask", "input_ids"]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("model", "makes", "expected"),
    [
        ("bert", tokens.INPUTS, [*PLAIN, "token_type_ids"]),
        ("bert", PLAIN[::-1], PLAIN),
        ("roberta", PLAIN[::-1], PLAIN),
        # It has no segments, and its stock class says nothing to a tokenizer that makes them.
        ("distilbert", tokens.INPUTS, PLAIN),
    ],
)
def test_a_graph_wants_what_the_folder_s_tokenizer_makes(
    pico: Any,
    sentiment: Any,
    export_here: Any,
    tmp_path: Path,
    model: str,
    makes: list[str],
    expected: list[str],
    precision: str,
) -> None:
    """As a stranger runs it: tokenizer and onnxruntime, without smp."""
    import onnxruntime

    base = changed(pico(model), tmp_path / "base", model_input_names=makes)
    run = make_run(sentiment.csv, base, tmp_path / "runs", head="classifier")
    folder = export_here(run, "onnx", output=tmp_path / "folder", precision=precision).path
    encoded = AutoTokenizer.from_pretrained(folder)(TEXTS, truncation=True, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert sorted(encoded) == sorted(wanted.name for wanted in session.get_inputs()) == expected
    (logits,) = session.run(["logits"], dict(encoded))
    tolerance = 1e-5 if precision == "fp32" else 0.3
    torch.testing.assert_close(torch.from_numpy(logits), load(run).logits(TEXTS), rtol=0, atol=tolerance)
