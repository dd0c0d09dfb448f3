"""smp predict: texts in, JSON lines out; what is wrong is said in a line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import SHORT, Smp, make_run


@pytest.fixture(scope="module")
def mask_file(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from smpcli import export

    return export(finished, "mask", output=tmp_path_factory.mktemp("predict") / "a.smpmask").path


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


def rows(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_arguments_file_and_standard_input_answer_alike(
    smp: Smp, finished: Path, mask_file: Path, stdin: Callable[[bytes], None], tmp_path: Path
) -> None:
    texts = ["a good film", "", "ein schöner Film", "a\u2028b"]
    answers = rows(smp("predict", finished, *texts).ok().out)
    assert [row["text"] for row in answers] == texts
    assert all(row["task"] == "sentiment" and row["label"] in ("negative", "positive") for row in answers)
    (tmp_path / "texts.txt").write_bytes(("\ufeff" + "\r\n".join(texts)).encode())
    assert rows(smp("predict", finished, "--file", tmp_path / "texts.txt").ok().out) == answers
    stdin(("\n".join(texts) + "\n").encode())
    assert rows(smp("predict", "--mask", mask_file).ok().out) == answers
    stdin(b"")
    assert smp("predict", mask_file).ok().out == ""


def test_the_predictions_of_a_run_are_those_that_it_recorded(smp: Smp, finished: Path, sentiment: Any) -> None:
    from smpcli.tasks.data import load_data
    from smpcli.tasks.task import find_task

    dev = load_data(find_task(str(sentiment.csv)), None).dev["dev"]
    recorded = [json.loads(line)["prediction"] for line in (finished / "predictions.jsonl").read_text().splitlines()]
    answers = rows(smp("predict", finished, *dev.texts).ok().out)
    assert [["negative", "positive"].index(row["label"]) for row in answers] == recorded


def test_two_masks_in_a_process_of_its_own(real_smp: Smp, mask_file: Path, tmp_path: Path) -> None:
    second = tmp_path / "b.smpmask"
    second.write_bytes(mask_file.read_bytes())
    done = real_smp("predict", "--mask", mask_file, "--mask", second, "one", "two").ok()
    found = rows(done.out)
    assert [(row["text"], row["mask"]) for row in found] == [
        (text, str(path)) for text in ("one", "two") for path in (mask_file, second)
    ]
    assert found[0]["scores"] == found[1]["scores"] and done.err == ""


def test_a_task_on_pairs(smp: Smp, pico: Callable[[str], Path], tmp_path: Path) -> None:
    data = tmp_path / "pairs.csv"
    pairs = [(one, two) for one in ("good", "bad", "dull") for two in ("good", "bad")]
    lines = [f"{one} film,{two} movie,{'same' if one == two else 'other'}" for one, two in pairs]
    data.write_text("text,text_pair,label\n" + "\n".join(lines * 6) + "\n", encoding="utf-8")
    run = make_run(
        "prune",
        "--task",
        data,
        "--model",
        pico("bert"),
        *SHORT,
        "--set",
        "pair_column=text_pair",
        "--output",
        tmp_path,
    )
    (row,) = rows(smp("predict", run, "good film\tgood movie").ok().out)
    assert row["label"] in ("same", "other")
    from smpcli import UserError, load

    assert load(run).predict(["good film"], ["good movie"]) == [
        {key: row[key] for key in ("label", "score", "scores")}
    ]
    for text in ("good film", "a\tb\tc"):
        refused = smp("predict", run, "x\ty", text)
        assert refused.code == 2 and "text 2: task 'pairs' takes two texts" in refused.err and refused.out == ""
    with pytest.raises(UserError, match="takes pairs of texts"):
        load(run).predict(["good film"])


def test_a_line_that_cannot_be_read_is_named_and_those_before_it_are_answered(
    smp: Smp, pico: Callable[[str], Path], sentiment: Any, tmp_path: Path
) -> None:
    run = make_run("prune", "--task", sentiment.csv, "--model", pico("gpt2"), *SHORT, "--output", tmp_path)
    assert rows(smp("predict", run, "good film").ok().out)[0]["label"] in ("negative", "positive")
    lines = ["a good film"] * 299 + [" ", "a dull film"]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    refused = smp("predict", run, "--file", tmp_path / "texts.txt")
    assert refused.code == 2 and refused.err.startswith("error: text 300 holds no token")
    # Texts are answered 256 at a time.
    assert len(rows(refused.out)) == 256


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        ("", ["nothing to predict with", "--mask"]),
        ("{none} text", ["there is no run or export"]),
        ("{text} text", ["neither a run's folder nor an export"]),
        ("--mask {text} --mask {mask} text", ["is not a mask file"]),
        ("--mask {none} --mask {mask} text", ["there is no mask file"]),
        ("--mask {none} text", ["there is no run or export"]),
        ("{run} --file {none}", ["can't read", "No such file"]),
        ("{run} --file {folder}", ["can't read", "directory"]),
        ("{run} --file {latin}", ["line 2", "UTF-8"]),
        ("{run} --file {text} text", ["not both"]),
        ("--mask {mask} --model {folder} text", ["config.json"]),
    ],
)
def test_bad_input_is_one_line(
    smp: Smp, finished: Path, mask_file: Path, tmp_path: Path, arguments: str, messages: list[str]
) -> None:
    (tmp_path / "text.txt").write_text("hello\n")
    (tmp_path / "latin.txt").write_bytes(b"hello\nsch\xf6n\n")
    places = {
        "none": tmp_path / "none", "text": tmp_path / "text.txt", "latin": tmp_path / "latin.txt",
        "folder": tmp_path, "mask": mask_file, "run": finished,
    }  # fmt: skip
    done = smp("predict", *arguments.format(**places).split())
    assert done.code == 2 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert len(done.err) <= 320
    for message in messages:
        assert message in done.err
