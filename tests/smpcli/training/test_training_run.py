"""One run, from settings to a run directory."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from smpcli import UserError, evaluate, prune
from smpcli.kinds import KINDS
from smpcli.training import session

LABELS = ["positive", "negative"]


def run(pico: Any, task: Path, output: Path, method: str = "smp", model: str = "bert", **options: Any) -> Any:
    given = {"max_steps": 3, "batch_size": 8, **options}
    return prune(str(task), method, model=str(pico(model)), output=output, **given)


def result(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "result.json").read_text())
    return found


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, sentiment: Any) -> Path:
    """A thousand sentences: the shared ones, and new ones of the same words."""
    used = {label: {w for text, own in sentiment.rows if own == label for w in text.split()} for label in LABELS}
    shared = sorted(set.intersection(*used.values()))
    only = {label: sorted(words.difference(shared)) for label, words in used.items()}
    draw = random.Random(11)
    rows = dict(sentiment.rows)
    while len(rows) < 1000:
        label = draw.choice(LABELS)
        chosen = draw.choices(shared, k=draw.randint(2, 8)) + draw.choices(only[label], k=2)
        draw.shuffle(chosen)
        rows[" ".join(chosen)] = label
    path = tmp_path_factory.mktemp("many") / "many.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows.items()))
    return path


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dense", {"weights_lr": 3e-3, "max_steps": 100}),
        ("magnitude", {"weights_lr": 3e-3, "max_steps": 100, "sparsity": 0.5}),
        ("movement", {"weights_lr": 3e-3, "max_steps": 100, "sparsity": 0.5}),
        ("soft-movement", {"weights_lr": 3e-3, "max_steps": 100, "sparsity": 0.5}),
        ("l0", {"weights_lr": 3e-3, "max_steps": 150, "sparsity": 0.5, "penalty": 0.0}),
        # R weighs each matrix alike, so on matrices of 1,000 weights instead of 590,000 it would drown the loss.
        ("smp", {"penalty": 0.0, "max_steps": 200, "sparsity": 0.5}),
    ],
)
def test_every_method_learns(pico: Any, many: Path, tmp_path: Path, method: str, settings: dict[str, Any]) -> None:
    """Half of the weights are enough for a task as plain as this; a wrong sign anywhere is not."""
    found = run(pico, many, tmp_path, method, batch_size=32, evaluations=1, dropout=0.0, **settings)
    assert result(found.path)["metrics"]["accuracy"] > 0.85


def test_the_same_rows_in_other_formats_give_the_same_mask(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    found = {
        suffix: run(pico, getattr(sentiment, suffix), tmp_path / suffix).path for suffix in ("csv", "tsv", "jsonl")
    }
    assert len({result(path)["data"]["digest"] for path in found.values()}) == 1
    assert len({(path / "mask.safetensors").read_bytes() for path in found.values()}) == 1


def test_the_seed_decides_the_order_of_the_examples(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    losses = []
    for seed in (0, 1):
        # Without dropout, and with prototypes of all examples, only the batches are left to differ.
        path = run(pico, sentiment.csv, tmp_path, dropout=0.0, init="zero", seed=seed).path
        losses.append(json.loads((path / "metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.mark.parametrize("method", ["smp", "movement"])
def test_half_precision_is_for_training_alone(pico: Any, sentiment: Any, tmp_path: Path, method: str) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        path = run(pico, sentiment.csv, tmp_path, method, precision=precision, sparsity=0.5).path
        # What is kept and evaluated is in single precision, whatever the products were computed in.
        assert evaluate(path).agrees
        assert result(path)["weights"]["kept"] == result(path)["weights"]["prunable"] / 2
        found[precision] = [json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert found["bf16"] != found["fp32"]
    # The first step is the same model; later masks may differ.
    assert found["bf16"][0] == pytest.approx(found["fp32"][0], rel=0.02)


def test_settings_yaml_repeats_the_run(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    one = run(pico, sentiment.csv, tmp_path / "one", sparsity=0.77, seed=3, dropout=0.2, scores_lr=0.05)
    two = prune(recipe=str(one.path / "settings.yaml"), output=tmp_path / "two")
    assert one.path.name == two.path.name
    assert (one.path / "mask.safetensors").read_bytes() == (two.path / "mask.safetensors").read_bytes()
    settings = yaml.safe_load((one.path / "settings.yaml").read_text())
    assert (settings["sparsity"], settings["seed"], settings["scores_lr"], settings["init"]) == (
        0.77,
        3,
        0.05,
        "activation",
    )


def test_a_finished_run_is_not_done_twice_unasked(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    path = run(pico, sentiment.csv, tmp_path).path
    before = (path / "result.json").read_bytes()
    with pytest.raises(UserError, match="--overwrite"):
        run(pico, sentiment.csv, tmp_path)
    assert (path / "result.json").read_bytes() == before
    assert run(pico, sentiment.csv, tmp_path, overwrite=True).path == path


def test_a_run_that_breaks_off_has_no_result_and_can_be_begun_anew(
    pico: Any, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    class Watcher:
        def phase(self, name: str) -> None: ...

        def step(self, step: Any) -> None:
            if step.step == 2:
                raise Stopped

    with pytest.raises(Stopped):
        run(pico, sentiment.csv, tmp_path, progress=Watcher())
    (left,) = tmp_path.iterdir()
    assert (left / "settings.yaml").exists()
    assert not (left / "result.json").exists()
    assert run(pico, sentiment.csv, tmp_path).path == left
    assert (left / "result.json").exists()


def test_nothing_is_written_when_the_input_is_wrong(
    pico: Any, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "results"
    with pytest.raises(UserError, match="one class"):
        task = tmp_path / "one.csv"
        task.write_text("text,label\na film,good\nthe film,good\n")
        run(pico, task, output)
    with pytest.raises(UserError, match="no label word"):
        run(pico, sentiment.csv, output, model="bert-mlm", head="words")
    with pytest.raises(UserError, match="no model folder"):
        run(lambda name: tmp_path / name, sentiment.csv, output)
    assert not output.exists()


def test_the_rows_of_metrics_jsonl(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    path = run(pico, sentiment.csv, tmp_path, max_steps=5, evaluations=2).path
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["step"] for row in rows if "accuracy" in row] == [2, 5]
    assert rows[0]["density"] == 1.0
    assert rows[-1]["density"] == pytest.approx(0.1)
    assert rows[-1]["accuracy"] == result(path)["metrics"]["accuracy"]


def test_prototypes_and_statistics_come_from_the_training_rows_alone(
    pico: Any, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, set[int]]] = []
    kind = KINDS["classification"]
    prototypes, statistics = kind.set_prototypes, session.input_statistics

    def count_rows(model: Any, batches: Any, scale: float) -> None:
        batches = list(batches)
        labels = [label for _, own in batches for label in own.tolist()]
        seen.append((len(labels), set(labels)))
        prototypes(model, batches, scale)

    def count_more(model: Any, layers: Any, batches: Any) -> Any:
        batches = list(batches)
        seen.append((sum(len(inputs["input_ids"]) for inputs in batches), set()))
        return statistics(model, layers, batches)

    monkeypatch.setattr(kind, "set_prototypes", count_rows)
    monkeypatch.setattr(session, "input_statistics", count_more)
    train = result(run(pico, sentiment.csv, tmp_path).path)["data"]["train"]
    # Few examples: all of them, once, both times.
    assert seen == [(train, {0, 1}), (train, set())]


def test_the_epochs_and_batch_size_of_a_task_s_defaults_are_used(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    task = tmp_path / "short.yaml"
    text = sentiment.words.read_text().replace("sentiment.csv", str(sentiment.csv))
    task.write_text(text + "defaults: {epochs: 0.2, batch_size: 24}\n")
    found = prune(str(task), model=str(pico("bert")), output=tmp_path / "results")
    training = result(found.path)["training"]
    train = result(found.path)["data"]["train"]
    assert (training["batch_size"], training["steps"]) == (24, round(0.2 * -(-train // 24)))
