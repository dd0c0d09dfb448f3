"""Span tasks from `smp prune` to an exported model, and what `smp eval` says when data have moved."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from commandline import PRUNABLE, Smp, make_run, result_of, run_process
from safetensors.numpy import load_file

from smpcli import load

WINDOWS = ["--set", "max_length=32", "--set", "stride=8", "--batch-size", "8", "--set", "evaluations=1"]
HEADS = {"words": "bert-mlm", "prototype": "bert", "classifier": "bert"}


@pytest.fixture(scope="session")
def answered(pico: Callable[[str], Path], quiz: Path, results: Path) -> dict[str, Path]:
    """A finished run of each head on the generated questions."""
    return {
        head: make_run(
            *("prune", "--task", quiz, "--model", pico(model), "--sparsity", "0.5", "--max-steps", "4", *WINDOWS),
            *("--set", f"head={head}", "--output", results),
        )
        for head, model in HEADS.items()
    }


@pytest.mark.parametrize("head", HEADS)
def test_a_run_of_each_head(smp: Smp, answered: dict[str, Path], quiz: Path, head: str) -> None:
    run = answered[head]
    result = result_of(run)
    assert (result["metric"], list(result["metrics"])) == ("f1", ["f1", "exact_match"])
    assert result["model"]["head"] == head
    assert result["weights"]["kept"] == PRUNABLE // 2
    # 32 x 2 weights and 2 biases of the stock head are trained, words and prototypes are not.
    assert result["weights"]["trained"] == (66 if head == "classifier" else 0)
    assert (run / "head.safetensors").exists() == (head != "words")

    # What the official script reads, and the same example by example.
    answers = json.loads((run / "predictions.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert answers == {row["id"]: row["prediction"] for row in rows} and len(answers) == result["data"]["dev"]["dev"]
    content = json.loads(quiz.read_text(encoding="utf-8"))
    asked = {
        entry["id"]: (paragraph["context"], [answer["text"] for answer in entry["answers"]])
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    }
    for row in rows:
        context, truth = asked[row["id"]]
        assert row["prediction"] in context and row["prediction"] and row["label"] == truth
    exact = sum(row["prediction"].rstrip(".").split() == row["label"][0].split() for row in rows) / len(rows)
    assert result["metrics"]["exact_match"] == pytest.approx(exact, abs=1e-6)

    found = smp("eval", run, "--json").json
    assert found["agrees"] and found["metrics"] == result["metrics"]


STOCK = """
import json, sys, torch, transformers
found = {}
for head, task in json.loads(sys.argv[1]).items():
    model = getattr(transformers, task["class"]).from_pretrained(task["folder"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(task["folder"])
    cut = {"truncation": "only_second", "max_length": 32, "stride": 8, "return_overflowing_tokens": True}
    windows = tokenizer(task["question"], task["context"], return_offsets_mapping=True, **cut)
    pairs = []
    for index in range(len(windows["input_ids"])):
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: torch.tensor([windows[name][index]]) for name in names}
        with torch.no_grad():
            out = model(**inputs)
        start, end = out.logits[0, :, task["words"]].T if task["words"] else (out.start_logits[0], out.end_logits[0])
        places = windows["offset_mapping"][index]
        inside = [i for i, part in enumerate(windows.sequence_ids(index)) if part == 1]
        pairs += [
            (float(start[i] + end[j]), places[i][0], places[j][1]) for i in inside for j in inside if i <= j < i + 30
        ]
    _, first, last = max(pairs)
    found[head] = task["context"][first:last]
print(json.dumps(found))
"""


def test_exports_answer_as_the_run_did(
    smp: Smp, answered: dict[str, Path], quiz: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Both formats of all heads; the stock folders in a process that knows transformers alone."""
    content = json.loads(quiz.read_text(encoding="utf-8"))
    paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    tasks = {}
    answers: dict[str, str] = {}
    for head, run in answered.items():
        predicted = json.loads((run / "predictions.json").read_text(encoding="utf-8"))
        chosen = next(paragraph for paragraph in paragraphs if paragraph["qas"][0]["id"] in predicted)
        made = smp("export", run, "--output", tmp_path / head, "--json").json
        assert made["max_difference"] <= 1e-5
        mask = smp("export", run, "--format", "mask", "--output", tmp_path / f"{head}.smpmask", "--json").json
        assert mask["max_difference"] <= 1e-5
        weights = load_file(tmp_path / head / "model.safetensors")
        assert ("qa_outputs.weight" in weights) == (head != "words")
        config = json.loads((tmp_path / head / "config.json").read_text(encoding="utf-8"))
        assert config.get("smp_label_words") == ({"start": "Yes", "end": "No"} if head == "words" else None)
        vocabulary = json.loads((tmp_path / head / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        tasks[head] = {
            "class": "AutoModelForMaskedLM" if head == "words" else "AutoModelForQuestionAnswering",
            "folder": str(tmp_path / head),
            "question": chosen["qas"][0]["question"],
            "context": chosen["context"],
            "words": [vocabulary["Yes"], vocabulary["No"]] if head == "words" else None,
        }
        answers[head] = predicted[chosen["qas"][0]["id"]]
        for path in (run, tmp_path / head, tmp_path / f"{head}.smpmask"):
            found = load(path).predict([chosen["qas"][0]["question"]], [chosen["context"]])
            assert found == [{"answer": answers[head]}]
    asked = f"{chosen['qas'][0]['question']}\t{chosen['context']}"
    line = smp("predict", tmp_path / f"{head}.smpmask", asked).json
    assert (line["text"], line["answer"]) == (asked, answers[head])
    done = run_process([sys.executable, "-c", STOCK, json.dumps(tasks)], tmp_path, environment).ok()
    assert json.loads(done.out) == answers


@pytest.mark.parametrize("head", HEADS)
def test_a_dry_run_counts_the_windows_that_a_run_has(
    smp: Smp, pico: Callable[[str], Path], quiz: Path, head: str, tmp_path: Path, answered: dict[str, Path]
) -> None:
    flags = ["--task", quiz, "--model", pico(HEADS[head]), "--set", f"head={head}", *WINDOWS]
    plan = smp("prune", *flags, "--epochs", "1", "--dry-run", "--json").json
    assert plan["train_examples"] + plan["dev_examples"] == 60
    assert plan["data"]["columns"] == {"text": "question", "pair": "context", "label": "answers"}
    shown = smp("prune", *flags, "--dry-run").ok().out
    train, dev = plan["train_examples"], plan["dev_examples"]
    assert f"label 'answers', span: {train} questions\ndev: {dev} questions" in shown
    assert plan["prunable_weights"] == PRUNABLE
    assert plan["trained_weights"] == (66 if head == "classifier" else 0)
    if head == "prototype":
        run = make_run("prune", *flags, "--epochs", "1", "--output", tmp_path)
        assert result_of(run)["training"]["steps"] == plan["steps"] > plan["train_examples"] / 8


def test_a_dry_run_of_the_built_in_task_needs_no_data(smp: Smp, pico: Callable[[str], Path]) -> None:
    plan = smp("prune", "--task", "squad", "--model", pico("bert"), "--dry-run", "--json").json
    assert (plan["train_examples"], plan["dev_examples"], plan["steps"]) == (87599, 10570, None)
    assert (plan["settings"]["max_length"], plan["settings"]["stride"]) == (384, 128)


def test_frozen_weights_learn_to_answer(pico: Callable[[str], Path], quiz: Path, tmp_path: Path) -> None:
    """Half of pico BERT's weights, none of them trained, learn where the words that are asked for begin and end."""
    flags = ["--task", quiz, "--model", pico("bert"), *WINDOWS, "--output", tmp_path, "--set", "penalty=0"]
    flags += ["--set", "beta1=0.9", "--set", "beta2=0.999", "--set", "structure=1", "--set", "scores_lr=0.05"]
    run = make_run("prune", *flags, "--sparsity", "0.5", "--max-steps", "250")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    # Guessing among the 20 tokens and more of a window would cost log(20) = 3.0.
    assert fmean(losses[-20:]) < min(0.5 * fmean(losses[:5]), 2.8)


def test_what_windows_can_t_be_made_of_is_refused(
    smp: Smp, pico: Callable[[str], Path], quiz: Path, sentiment: Any
) -> None:
    bert = ["--model", pico("bert"), "--max-steps", "2"]
    for flags, said in (
        (["--task", quiz, *bert, "--set", "max_length=32"], "no more than the stride=128 that windows share"),
        (["--task", quiz, *bert, "--set", "max_length=64", "--set", "stride=8"], "add --set max_length=40"),
        (["--task", sentiment.csv, *bert, "--set", "stride=8"], "setting 'stride' is for span tasks"),
        (["--task", quiz, *bert, "--set", "text_column=question"], "has its own columns"),
        (["--task", quiz, *bert, "--dev-file", quiz], "is the training file too"),
        (["--task", "squad", *bert, "--data-dir", quiz], "is a file; --data-dir must"),
    ):
        done = smp("prune", *flags)
        assert done.code == 2 and said in done.err and done.err.count("error: ") == 1, done.err


# -- data that moved -----------------------------------------------------------------------------------------


@pytest.fixture
def own_run(
    pico: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory, sentiment: Any
) -> tuple[Path, Path]:
    """A run on a file of one's own with a dev file, and the folder of these files: short paths, as lines are cut."""
    base = tmp_path_factory.mktemp("o")
    folder = base / "mine"
    folder.mkdir()
    lines = sentiment.csv.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "train.csv").write_text("".join(lines[:200]), encoding="utf-8")
    (folder / "held.csv").write_text("".join([lines[0], *lines[200:]]), encoding="utf-8")
    files = ["--task", folder / "train.csv", "--dev-file", folder / "held.csv"]
    short = ["--max-steps", "2", "--batch-size", "8", "--set", "max_length=24", "--set", "evaluations=1"]
    return make_run("prune", *files, "--model", pico("bert"), *short, "--output", base / "r"), folder


def test_eval_names_the_file_that_is_gone_or_changed(smp: Smp, own_run: tuple[Path, Path], tmp_path: Path) -> None:
    run, folder = own_run
    recorded = result_of(run)["data"]["files"]
    assert {name: state["bytes"] for name, state in recorded.items()} == {
        str(folder / name): (folder / name).stat().st_size for name in ("train.csv", "held.csv")
    }
    assert smp("eval", run, "--json").json["agrees"]
    # Other line ends are the same rows.
    held = (folder / "held.csv").read_bytes()
    (folder / "held.csv").write_bytes(held.replace(b"\n", b"\r\n"))
    assert smp("eval", run, "--json").json["agrees"]

    def refused(*args: str | Path) -> str:
        for command in ("eval", "export"):
            done = smp(command, run, *args)
            assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        return done.err

    for content in (held.replace(b"good", b"goods"), held[:-10], b"text,label\nfine,positive\n", b"no columns"):
        (folder / "held.csv").write_bytes(content)
        said = refused()
        assert f"{folder / 'held.csv'} has changed since {run} was made from it" in said and "--data-dir" in said
    (folder / "held.csv").unlink()
    assert f"{folder / 'held.csv'}, which {run} was made from, is gone" in refused()

    # Both in another folder now: named, they are found and known again.
    (folder / "held.csv").write_bytes(held)
    folder.rename(tmp_path / "moved")
    assert f"{folder / 'train.csv'}, which" in refused()
    assert smp("eval", run, "--data-dir", tmp_path / "moved", "--json").json["agrees"]
    assert f"{tmp_path / 'train.csv'}, which" in refused("--data-dir", tmp_path)


def test_eval_names_a_task_file_that_changed(
    smp: Smp, pico: Callable[[str], Path], quiz: Path, tmp_path: Path
) -> None:
    shutil.copy(quiz, tmp_path / "quiz.json")
    task = tmp_path / "mine.yaml"
    text = (
        "title: T\nkind: span\ntext: question\npair: context\nlabel: answers\nmetrics: [exact_match]\n"
        "max_length: 32\nstride: 8\nsource: {file: quiz.json}\n"
    )
    task.write_text(text)
    flags = ["--model", pico("bert"), "--max-steps", "1", "--set", "evaluations=1", "--output", tmp_path / "results"]
    run = make_run("prune", "--task", task, *flags)
    assert set(result_of(run)["data"]["files"]) == {str(task), str(tmp_path / "quiz.json")}
    task.write_text(text.replace("label: answers", "label: answer"))
    assert f"{task} has changed since" in smp("eval", run).err
    task.unlink()
    assert f"{task}, which {run} was made from, is gone" in smp("eval", run).err


def test_a_dev_set_alone_measures_a_run(smp: Smp, pico: Callable[[str], Path], tmp_path: Path) -> None:
    """MNLI whole to train on; then a folder without training rows, and with one of its two dev sets."""
    header = "index\tsentence1\tsentence2\tgold_label\n"
    kinds = ("entailment", "neutral", "contradiction")
    for name, count in (("train", 24), ("dev_matched", 9), ("dev_mismatched", 12)):
        rows = (f"{i}\tthe film was good {i % 5}\tthe {name}\t{kinds[i % 3]}\n" for i in range(count))
        (tmp_path / "whole" / "MNLI").mkdir(parents=True, exist_ok=True)
        (tmp_path / "whole" / "MNLI" / f"{name}.tsv").write_text(header + "".join(rows), encoding="utf-8")
    flags = ["--model", pico("bert"), "--max-steps", "2", "--batch-size", "8", "--set", "max_length=24"]
    run = make_run(
        "prune", "--task", "mnli", "--data-dir", tmp_path / "whole", *flags, "--output", tmp_path / "results"
    )
    result = result_of(run)
    assert result["metric"] == "accuracy_matched" and result["data"]["dev"] == {"matched": 9, "mismatched": 12}
    assert list(result["metrics"]) == ["accuracy_matched", "accuracy_mismatched"]
    assert "accuracy_matched" in smp("compare", tmp_path / "results").ok().out

    shutil.copytree(tmp_path / "whole", tmp_path / "dev")
    (tmp_path / "dev" / "MNLI" / "train.tsv").unlink()
    assert smp("eval", run, "--data-dir", tmp_path / "dev", "--json").json["metrics"] == result["metrics"]
    (tmp_path / "dev" / "MNLI" / "dev_matched.tsv").unlink()
    done = smp("eval", run, "--data-dir", tmp_path / "dev").ok()
    assert done.out == f"accuracy_mismatched {result['metrics']['accuracy_mismatched']!r}\n"
    assert "not recomputed, as the folder lacks their dev set: accuracy_matched" in done.err
    refused = smp("prune", "--task", "mnli", "--data-dir", tmp_path / "dev", *flags)
    assert refused.code == 2 and "has no train.tsv but 'dev_mismatched.tsv'" in refused.err
    # Another dev set is not taken for the run's.
    path = tmp_path / "dev" / "MNLI" / "dev_mismatched.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace("good 1", "dull 1"), encoding="utf-8")
    refused = smp("eval", run, "--data-dir", tmp_path / "dev")
    assert refused.code == 2 and "differ from those of" in refused.err
