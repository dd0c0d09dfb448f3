"""Where texts are cut is said: by a dry run, by a run, in its result, and when it is evaluated."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from typer.testing import CliRunner

from smpcli import evaluate, plan, prune
from smpcli.encoding.cut import Cut, describe
from smpcli.kinds import rows as encoding
from smpcli.kinds.rows import encode_rows, foresee_cut
from smpcli.main import app
from smpcli.modeling.backbone import load_tokenizer
from smpcli.settings import resolve
from smpcli.tasks.data import local_data
from smpcli.tasks.examples import Examples
from smpcli.tasks.squad import Questions


def test_the_line_says_each_set_as_it_is() -> None:
    train = Cut("texts", 128, examples=20_000, cut=1_234, tokens=1_000_000, lost=32_000)
    none = Cut("texts", 128, examples=300, cut=0, tokens=9_000, lost=0)
    few = Cut("texts", 128, examples=300, cut=1, tokens=9_000, lost=1)
    said = "train: 1,234 of 20,000 texts are cut to 128 tokens (3.2% of tokens)"
    assert describe({"train": train}) == said
    assert describe({"train": train, "dev": none, "other": few}) == (
        f"{said}; dev: 0 of 300 (0.0%); other: 1 of 300 (under 0.1%)"
    )
    assert describe({"train": none, "dev": none}) is None
    sample = Cut("pairs of texts", 64, examples=2_000, cut=5, tokens=100, lost=50, of=90_000)
    assert describe({"train": sample, "dev": none}) == (
        "train: 5 of 2,000 pairs of texts (a sample of 90,000) are cut to 64 tokens (50.0% of tokens); "
        "dev: 0 of 300 (0.0%)"
    )


@pytest.fixture
def long_file(tmp_path: Path) -> Path:
    """100 rows of known words, ten of each length: 2, 4, … 20 words, each one token, and the two around them."""
    rows = [(f"film plot {'the ' * (2 * (row % 10))}".strip(), ("good", "bad")[row // 10 % 2]) for row in range(100)]
    with (tmp_path / "long.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    with (tmp_path / "held.csv").open("w", newline="", encoding="utf-8") as file:
        held = [("a film", "good"), ("the the the the the the the", "bad")]
        csv.writer(file).writerows([("text", "label"), *held])
    return tmp_path / "long.csv"


# Texts of 4, 6, … 22 tokens, ten each, cut to 12: five of ten lose 2, 4, 6, 8, 10 of 130.
TRAIN = {"unit": "texts", "length": 12, "examples": 100, "cut": 50, "tokens": 1300, "lost": 300}
# Of 4 and of 9 tokens.
DEV = {"unit": "texts", "length": 12, "examples": 2, "cut": 0, "tokens": 13, "lost": 0}
LINE = "train: 50 of 100 texts are cut to 12 tokens (23.1% of tokens); dev: 0 of 2 (0.0%)"


def test_a_dry_run_a_run_its_result_and_its_evaluation_say_the_same(
    pico: Any, long_file: Path, tmp_path: Path
) -> None:
    command = ["prune", "--task", str(long_file), "--dev-file", str(tmp_path / "held.csv"), "--model"]
    command += [str(pico("bert")), "--max-steps", "2", "--set", "max_length=12", "--output", str(tmp_path / "runs")]
    foreseen = CliRunner().invoke(app, [*command, "--dry-run", "--json"])
    assert json.loads(foreseen.stdout)["cut"] == {"train": TRAIN, "dev": DEV}
    shown = CliRunner().invoke(app, [*command, "--dry-run"])
    assert LINE in " ".join(shown.stdout.replace("│", " ").split())
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and LINE in done.stderr.splitlines()
    (run,) = (tmp_path / "runs").iterdir()
    assert json.loads((run / "result.json").read_text())["data"]["cut"] == {"train": TRAIN, "dev": DEV}


def test_evaluating_says_what_is_cut_of_the_dev_sets(pico: Any, long_file: Path, tmp_path: Path) -> None:
    # The files change their places: here it is the dev set that is long.
    run = prune(
        str(tmp_path / "held.csv"), dev_file=str(long_file), model=str(pico("bert")), max_steps=2, max_length=12,
        output=tmp_path / "runs",
    ).path  # fmt: skip
    assert {name: cut.to_json() for name, cut in evaluate(run).cut.items()} == {"dev": TRAIN}
    said = CliRunner().invoke(app, ["eval", str(run)])
    assert "dev: 50 of 100 texts are cut to 12 tokens (23.1% of tokens)" in said.stderr.splitlines()
    assert json.loads(CliRunner().invoke(app, ["eval", str(run), "--json"]).stdout)["cut"] == {"dev": TRAIN}
    assert CliRunner().invoke(app, ["eval", str(run), "--quiet"]).stderr == ""


def test_nothing_is_said_where_nothing_is_cut(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": str(pico("bert")), "max_steps": 2}
    command = ["prune", "--task", str(sentiment.csv), "--model", options["model"], "--max-steps", "2"]
    done = CliRunner().invoke(app, [*command, "--output", str(tmp_path)])
    assert done.exit_code == 0 and "cut" not in done.stderr
    foreseen = plan(str(sentiment.csv), **options).cut
    assert foreseen is not None and [cut.cut for cut in foreseen.values()] == [0, 0]


def test_a_large_set_is_sampled_from_end_to_end(pico: Any, long_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "SAMPLE", 4)
    settings = resolve(flags={"task": str(long_file), "model": str(pico("bert")), "max_length": 4})
    rows = Examples(["a"] * 5 + ["the film was good"] * 5, None, [0, 1] * 5)
    # Rows 0, 3, 6, 9: two of three tokens, two of six.
    found = foresee_cut(load_tokenizer(settings.run.model), rows, settings)
    assert found == Cut("texts", 4, examples=4, cut=2, tokens=18, lost=4, of=10)


def test_questions_are_cut_and_contexts_are_not(pico: Any, quiz: Path) -> None:
    settings = resolve(flags={"task": str(quiz), "model": str(pico("bert")), "max_length": 100, "stride": 8})
    tokenizer = load_tokenizer(settings.run.model)
    data = local_data(settings.task, None)
    assert data is not None and isinstance(data.train, Questions)
    rows = data.train.take([0, 1])
    asked = Questions(rows.ids, ["the " * 70, "which one"], ["good " * 200] * 2, [[], []])
    expected = Cut("questions", 64, examples=2, cut=1, tokens=72, lost=6)
    assert encode_rows(tokenizer, asked, settings).cut == foresee_cut(tokenizer, asked, settings) == expected
    uncut = encode_rows(tokenizer, rows, settings).cut
    assert uncut is not None and uncut.cut == uncut.lost == 0


def test_a_tokenizer_in_the_hub_s_cache_is_at_hand(
    pico: Any, long_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "hub" / "models--somebody--pico"
    shutil.copytree(pico("bert"), cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    options: dict[str, Any] = {"dev_file": str(tmp_path / "held.csv"), "max_length": 12, "max_steps": 2}
    found = plan(str(long_file), model="somebody/pico", **options).cut
    assert found is not None and found["train"].to_json() == TRAIN
    assert plan(str(long_file), model="somebody/else", **options).cut is None
