"""Floors: fitted on training rows alone, kept beside the runs, marked in every form of a comparison."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import commandline
import numpy as np
import pytest
import torch
from rich.console import Console

from smpcli import compare, prune
from smpcli.comparison import floor_fits, floors
from smpcli.comparison.floor_fits import STRENGTHS, Fitted, fit_words, held_out, mean_vectors
from smpcli.errors import UserError
from smpcli.runs.rundir import RunDir
from smpcli.settings import resolve
from smpcli.tasks.data import load_data
from smpcli.tasks.examples import Examples

NOISE = "film story plot actor scene".split()


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return path


def easy(path: Path, count: int, wrong: int = 0, seed: int = 0) -> Path:
    """One word says what the label is, but in the first `wrong` rows, which have the other one's."""
    draw, rows = random.Random(seed), list[tuple[str, str]]()
    for row in range(count):
        label = row % 2
        told = label ^ (row < wrong)
        words = [*draw.choices(NOISE, k=4), "superb" if told else "dreadful"]
        rows.append((f"{' '.join(words)} {row}", "good" if label else "bad"))
    return table(path, rows)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    easy(tmp_path / "dev.csv", 40, wrong=6, seed=1)
    return easy(tmp_path / "task.csv", 120)


@pytest.fixture
def run(task: Path, tmp_path: Path, pico: Any) -> RunDir:
    return short_run(task, tmp_path / "results", pico("bert"), dev_file=task.parent / "dev.csv")


def short_run(task: Path, output: Path, model: Path, **settings: Any) -> RunDir:
    short: dict[str, Any] = {"max_steps": 2, "batch_size": 8, "max_length": 24, "evaluations": 1, **settings}
    return prune(str(task), "smp", 0.5, model=str(model), output=output, **short)


def test_the_word_that_tells_is_found_and_dev_is_measured(run: RunDir) -> None:
    """34 of the 40 dev rows have the word of their label: 85 %, whatever C is."""
    rows = compare(run.path.parent, with_floors=True).floors
    words, vectors = rows
    assert (words.name, words.value, words.model) == ("TF-IDF + LR", 34 / 40, "")
    assert vectors.name == "frozen vectors + LR" and vectors.model_digest == run.result.model.digest
    assert {row.method for row in rows} == {"floor"} and {row.c for row in rows} <= set(STRENGTHS)
    assert {(row.sparsity, row.remaining, row.built_in) for row in rows} == {(None, None, False)}


def test_dev_chooses_nothing(task: Path, tmp_path: Path) -> None:
    """With every dev label the other way round, the same C is chosen, and what was right is wrong."""
    turned = [line.rsplit(",", 1) for line in (tmp_path / "dev.csv").read_text().splitlines()[1:]]
    table(tmp_path / "turned.csv", [(text, "bad" if label == "good" else "good") for text, label in turned])
    found = []
    for name in ("dev.csv", "turned.csv"):
        settings = resolve(flags={"task": str(task), "dev_file": str(tmp_path / name)})
        found.append(fit_words(settings, load_data(settings.task, None, dev_file=tmp_path / name)))
    assert found[0].c == found[1].c
    assert found[0].metrics["accuracy"] == pytest.approx(1 - found[1].metrics["accuracy"]) == 0.85


def test_c_is_the_best_on_the_rows_that_are_held_out(task: Path) -> None:
    """Against each C asked by itself; with labels that are half chance the largest C learns them by heart."""
    draw = random.Random(3)
    rows = [
        (f"{' '.join(draw.choices(NOISE, k=6))} {'superb' if label == 'good' else 'dreadful'} {number}", label)
        for number, label in enumerate(draw.choices(["good", "bad"], k=200))
    ]
    noisy = [(text, label if draw.random() < 0.7 else "good") for text, label in rows]
    settings = resolve(flags={"task": str(table(task.parent / "noisy.csv", noisy))})
    data = load_data(settings.task, None)
    train = data.train
    assert isinstance(train, Examples)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    held, right = held_out(train), {}
    fit, rest = [[i for i in range(len(train)) if held[i] == side] for side in (False, True)]
    vectors = TfidfVectorizer(ngram_range=(1, 2)).fit([train.texts[i] for i in fit])
    for c in STRENGTHS:
        made = LogisticRegression(C=c, max_iter=1000)
        made.fit(vectors.transform([train.texts[i] for i in fit]), [train.labels[i] for i in fit])
        guess = made.predict(vectors.transform([train.texts[i] for i in rest]))
        right[c] = sum(int(a) == train.labels[i] for a, i in zip(guess, rest, strict=True))
    assert len(set(right.values())) > 1
    assert fit_words(settings, data).c == max(STRENGTHS, key=lambda c: right[c])


def test_a_tenth_of_the_texts_is_held_out_by_other_bits_than_dev_is() -> None:
    texts = [f"text {number}" for number in range(400)]
    held = held_out(Examples(texts, None, [0] * 400))
    # Bytes 4 to 7 of sha256 over the text, a tab and no second text, as a split of a file takes bytes 0 to 3.
    whole = [hashlib.sha256(" ".join(f"{text}\t".split()).encode()).digest() for text in texts]
    assert held.tolist() == [int(digest[4:8].hex(), 16) / 2**32 < 0.1 for digest in whole]
    assert 20 < held.sum() < 60
    # Of what a file's own split left to train on, some is held out again.
    left = [number for number, digest in enumerate(whole) if int(digest[:4].hex(), 16) / 2**32 >= 0.1]
    assert held[left].any()


@pytest.mark.parametrize("model", ["bert", "bert-mlm", "gpt2"])
def test_vectors_are_means_over_a_text_s_own_tokens(model: str, task: Path, tmp_path: Path, pico: Any) -> None:
    """Against the stock model, a text at a time, so without padding."""
    from transformers import AutoModel, AutoTokenizer

    source = tmp_path / "worded.yaml"
    source.write_text(
        "title: t\nkind: classification\ntext: text\nlabel: label\nlabels: [bad, good]\nmetrics: [accuracy]\n"
        "words: {bad: terrible, good: great}\nsource: {file: task.csv}\n"
    )
    done = short_run(source, tmp_path / "out", pico(model))
    assert done.result.model.head == ("prototype" if model == "bert" else "words")
    settings = resolve(flags=dict(done.settings))
    texts = ["a fine film", "the plot is dull and the actor is cold in this scene", "bad"]
    found = mean_vectors(settings, ["bad", "good"], done)(Examples(texts, None, [0, 1, 0]))
    tokenizer, stock = AutoTokenizer.from_pretrained(pico(model)), AutoModel.from_pretrained(pico(model)).eval()
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            wanted = stock(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        assert np.allclose(vector, wanted.numpy(), atol=1e-5)


def test_pairs_are_one_text_and_numbers_are_ridge_s(tmp_path: Path, pico: Any) -> None:
    """Only the second text has the word that the number follows: two values, so that a right order is 1."""
    draw = random.Random(5)
    lines = ["one,two,score"]
    for row in range(90):
        told = row % 2
        lines.append(
            f"{draw.choice(NOISE)} {row},the {'superb' if told else 'dreadful'} {row},{4.5 if told else 0.5}"
        )
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    columns = {"text_column": "one", "pair_column": "two", "label_column": "score"}
    done = short_run(tmp_path / "pairs.csv", tmp_path / "out", pico("bert"), **columns)
    words, vectors = compare(done.path.parent, with_floors=True).floors
    assert words.name == "TF-IDF + ridge" and words.metric == "pearson" and words.value > 0.95
    assert vectors.name == "frozen vectors + ridge" and -1 <= vectors.value <= 1


def test_a_second_call_fits_nothing(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    first = compare(run.path.parent, with_floors=True, on_floor=told.append).floors
    assert told == ["TF-IDF on task", "frozen vectors on task"]

    def never(*given: Any) -> Any:
        raise AssertionError("fitted again")

    for name in ("fit_words", "fit_vectors"):
        monkeypatch.setattr(floor_fits, name, never)
    monkeypatch.setattr(floors, "_settings_and_data", never)
    assert compare(run.path.parent, with_floors=True, on_floor=never).floors == first
    # Not asked for, not there.
    assert compare(run.path.parent).floors == []
    # What is kept is of that data and model alone.
    file = json.loads((run.path.parent / "floors.json").read_text())
    assert all(run.result.data.digest in key for key in file["floors"]) and len(file["floors"]) == 2


DAMAGE = [
    "", "[]", "{", '{"schema": 1}', '{"schema": 0, "floors": {}}', '{"schema": 1, "floors": [1]}',
    '{"schema": 1, "floors": {"KEY": 3, "other": NaN}}',
    '{"schema": 1, "floors": {"KEY": {"metrics": {}, "c": 1, "head": "LR"}}}',
    '{"schema": 1, "floors": {"KEY": {"metrics": {"accuracy": NaN}, "c": 1, "head": "LR"}}}',
    '{"schema": 1, "floors": {"KEY": {"metrics": {"accuracy": "high"}, "c": 1, "head": "LR"}}}',
    '{"schema": 1, "floors": {"KEY": {"metrics": {"accuracy": 1e999}, "c": 1, "head": "LR", "more": 1}}}',
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGE, ids=range(len(DAMAGE)))
def test_what_isn_t_as_it_was_written_is_fitted_again(
    content: str, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Fitted({"accuracy": 0.25, "macro_f1": 0.5}, 10.0, "LR")
    for name in ("fit_words", "fit_vectors"):
        monkeypatch.setattr(floor_fits, name, lambda *given: made)
    file, key = run.path.parent / "floors.json", f"TF-IDF, data {run.result.data.digest}"
    file.write_text(content.replace("KEY", key))
    assert [row.value for row in compare(run.path.parent, with_floors=True).floors] == [0.25, 0.25]
    assert not list(run.path.parent.glob(".floors*"))


def test_a_place_that_can_t_be_written_costs_no_table(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Fitted({"accuracy": 0.25, "macro_f1": 0.5}, 10.0, "LR")
    for name in ("fit_words", "fit_vectors"):
        monkeypatch.setattr(floor_fits, name, lambda *given: made)
    (run.path.parent / "floors.json").mkdir()
    assert len(compare(run.path.parent, with_floors=True).floors) == 2
    assert not list((run.path.parent / "floors.json").iterdir())


def test_data_that_changed_since_are_refused(run: RunDir, task: Path) -> None:
    with task.open("a") as file:
        file.write("one more,good\n")
    with pytest.raises(UserError, match=r"--floor needs the data of .*, and it has changed"):
        compare(run.path.parent, with_floors=True)
    task.unlink()
    with pytest.raises(UserError, match=r"--floor needs the data of .* again \(file task.csv, dev dev.csv\): "):
        compare(run.path.parent, with_floors=True)
    assert not (run.path.parent / "floors.json").exists()


def test_a_metric_that_the_task_has_no_more_is_refused(tmp_path: Path, pico: Any) -> None:
    easy(tmp_path / "task.csv", 60)
    source = tmp_path / "mine.yaml"
    text = "title: t\nkind: classification\ntext: text\nlabel: label\nmetrics: [METRIC]\nsource: {file: task.csv}\n"
    source.write_text(text.replace("METRIC", "macro_f1"))
    done = short_run(source, tmp_path / "out", pico("bert"))
    source.write_text(text.replace("METRIC", "accuracy"))
    with pytest.raises(UserError, match="--floor: 'mine' isn't measured in macro_f1 any longer"):
        compare(done.path.parent, with_floors=True)


def test_the_command_says_what_it_fits_and_prints_rows(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    said = []
    for flags in (["--quiet"], [], []):
        assert commandline.run_in_process("compare", run.path.parent, "--floor", "--format", "csv", *flags) == 0
        printed = capsys.readouterr()
        assert [line.split(",")[3] for line in printed.out.splitlines()] == ["method", "smp", "floor", "floor"]
        said.append(printed.err.count("fitting a floor, once: "))
        if flags:
            (run.path.parent / "floors.json").unlink()
    assert said == [0, 2, 0]


def test_a_model_that_changed_since_is_refused(task: Path, tmp_path: Path, pico: Any) -> None:
    import shutil

    shutil.copytree(pico("bert"), tmp_path / "model")
    done = short_run(task, tmp_path / "out", tmp_path / "model")
    shutil.copytree(pico("bert-mlm"), tmp_path / "model", dirs_exist_ok=True)
    with pytest.raises(UserError, match="differ from those that"):
        compare(done.path.parent, with_floors=True)


def test_questions_are_refused_in_one_line(
    quiz: Path, tmp_path: Path, pico: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    done = short_run(quiz, tmp_path / "out", pico("bert"), max_length=40, stride=8)
    capsys.readouterr()
    assert commandline.run_in_process("compare", done.path.parent, "--floor") == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.splitlines() == [
        f"error: --floor has none for '{quiz.stem}', a task of kind span and not classification or regression; "
        "leave it out, or choose other runs with --task"
    ]
    assert not (done.path.parent / "comparison.csv").exists()


def test_texts_without_a_word_are_refused_in_one_line(tmp_path: Path, pico: Any) -> None:
    rows = [(f"{'! ' * (1 + row % 7)}{'?' * (1 + row % 5)}", "good" if row % 2 else "bad") for row in range(60)]
    done = short_run(table(tmp_path / "signs.csv", rows), tmp_path / "out", pico("bert"))
    with pytest.raises(UserError, match="--floor finds no word of two letters in the training texts"):
        compare(done.path.parent, with_floors=True)


def test_few_rows_have_the_library_s_own_c(tmp_path: Path) -> None:
    rows = [("superb nine", "good"), ("dreadful two", "bad"), ("superb three", "good"), ("dreadful four", "bad")]
    table(tmp_path / "dev.csv", [("a superb", "good"), ("a dreadful", "bad")])
    settings = resolve(flags={"task": str(table(tmp_path / "few.csv", rows)), "dev_file": str(tmp_path / "dev.csv")})
    data = load_data(settings.task, None, dev_file=tmp_path / "dev.csv")
    assert isinstance(data.train, Examples) and not held_out(data.train).any()
    assert fit_words(settings, data) == Fitted({"accuracy": 1.0, "macro_f1": 1.0}, 1.0, "LR")


def test_every_form_has_them_marked(run: RunDir, tmp_path: Path) -> None:
    found = compare(run.path.parent, with_floors=True)
    Console(width=120, file=(printed := io.StringIO())).print(found)
    shown = [line.split() for line in printed.getvalue().splitlines() if "+ LR" in line]
    assert shown[0][:5] == ["§", "TF-IDF", "+", "LR,", f"C={found.floors[0].c:g}"] and shown[0][-1] == "85.00"
    assert len(shown) == 2 and "§ floor: logistic regression" in printed.getvalue()
    frame = found.to_frame().set_index("method").loc["floor"]
    assert frame["mean"].iloc[0] == 0.85 and frame["sparsity"].isna().all() and frame["n"].isna().all()
    assert frame["published"].tolist() == ["", ""] and frame["settings"].iloc[0].startswith("TF-IDF + LR, C=")
    assert found.to_json()["floors"][0]["value"] == 0.85
    assert json.loads(json.dumps(found.to_json())) == found.to_json()
    assert f"| TF-IDF + LR § (C={found.floors[0].c:g}) |  |  | 85.00 |" in found.to_markdown()
    assert rf"TF-IDF + LR \S{{}} (C={found.floors[0].c:g}) &  &  & 85.00 &" in found.to_latex()
    found.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"§ TF-IDF + LR"' in page and f'"floor: C={found.floors[0].c:g}"' in page
    found.to_plot(tmp_path / "figure.svg")
    assert "TF-IDF + LR, floor" in (tmp_path / "figure.svg").read_text(encoding="utf-8")
