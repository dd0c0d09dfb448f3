"""From a run directory back to the pruned model: the same tensors, or a clear refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smpcli import UserError, evaluate, prune
from smpcli.evaluation.recompute import reopen
from smpcli.runs.maskfile import read_masks, write_masks

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def finished(pico: Any, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """finished("movement", "bert", head=…) is the folder of a short run; read it, don't change it."""
    made: dict[tuple[str, ...], Path] = {}

    def get(method: str, model: str = "bert", task: str = "csv", head: str = "auto") -> Path:
        key = (method, model, task, head)
        if key not in made:
            made[key] = prune(
                str(getattr(sentiment, task)),
                method,
                None if method == "dense" else 0.8,
                model=str(pico(model)),
                head=head,
                max_steps=3,
                batch_size=8,
                output=tmp_path_factory.mktemp("restore"),
            ).path
        return made[key]

    return get


def seal(run: Path) -> None:
    """Make result.json agree with the sizes of files that a test has changed."""
    result = json.loads((run / "result.json").read_text())
    result["files"] = {name: (run / name).stat().st_size for name in result["files"]}
    (run / "result.json").write_text(json.dumps(result))


def copied(run: Path, target: Path, old: Any = "", new: Any = "") -> Path:
    """A copy of a run, with a path in its settings replaced."""
    copy = target / "run"
    shutil.copytree(run, copy)
    settings = (copy / "settings.yaml").read_text()
    (copy / "settings.yaml").write_text(settings.replace(str(old), str(new)) if old else settings)
    seal(copy)
    return copy


@pytest.mark.parametrize(
    ("method", "model", "task", "head"),
    [
        ("smp", "bert", "csv", "classifier"),
        ("movement", "bert", "csv", "classifier"),
        ("smp", "bert-mlm", "words", "words"),
        ("movement", "bert-mlm", "words", "words"),
        ("dense", "roberta", "words", "words"),
        ("magnitude", "distilbert", "csv", "auto"),
        ("smp", "electra", "words", "prototype"),
        ("smp", "mpnet", "words", "auto"),
        ("smp", "bert", "scores", "auto"),
        ("soft-movement", "roberta", "scores", "classifier"),
    ],
)
def test_every_head_on_every_architecture_evaluates_the_same_again(
    finished: MakeRun, method: str, model: str, task: str, head: str
) -> None:
    run = finished(method, model, task, head)
    again = evaluate(run)
    assert again.agrees
    # Predictions too, which are more telling than a metric of 25 examples.
    reopened = reopen(run)
    dev = reopened.dev["dev"]
    with torch.no_grad():
        logits = torch.cat([reopened.model(**dev.collate([index])[0]) for index in range(len(dev))])
    rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    written = torch.tensor([float(row["prediction"]) for row in rows])
    if task == "scores":
        torch.testing.assert_close(logits[:, 0], written, rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(logits.argmax(1).float(), written)


def test_only_the_mask_is_stored_for_smp_with_label_words(finished: MakeRun) -> None:
    run = finished("smp", "bert-mlm", "words", "words")
    assert {path.name for path in run.glob("*.safetensors")} == {"mask.safetensors"}


def test_of_a_trained_matrix_only_the_kept_weights_are_stored(finished: MakeRun) -> None:
    run = finished("movement")
    masks, weights = read_masks(run / "mask.safetensors"), load_file(run / "weights.safetensors")
    for name, mask in masks.items():
        assert weights[f"{name}.weight.kept"].shape == (int(mask.sum()),)
        assert f"{name}.weight" not in weights
    # Everything else of the base model as it is.
    assert weights["bert.embeddings.word_embeddings.weight"].shape[1] == 32
    assert not any(name.startswith("classifier") for name in weights)
    assert set(load_file(run / "head.safetensors")) == {"classifier.weight", "classifier.bias"}


def test_another_base_model_is_refused(finished: MakeRun, pico: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(pico("bert"), model)
    run = copied(finished("smp"), tmp_path, pico("bert"), model)
    # The same weights at another place are the same base model.
    assert evaluate(run).agrees
    weights = load_file(model / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][0] += 0.01
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"the weights of {model} differ from those that {run} was pruned from"):
        evaluate(run)


@pytest.mark.parametrize(
    ("method", "name", "change"),
    [
        ("smp", "head.safetensors", lambda tensors: tensors.update({"classifier.weight": torch.zeros(3, 32)})),
        ("smp", "head.safetensors", lambda tensors: tensors.update({"classifier.extra": torch.zeros(3)})),
        (
            "movement",
            "weights.safetensors",
            lambda tensors: tensors.update({"bert.encoder.layer.0.output.dense.weight.kept": torch.zeros(5)}),
        ),
        (
            "movement",
            "weights.safetensors",
            lambda tensors: tensors.update({"bert.pooler.dense.weight.kept": torch.zeros(5)}),
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    finished: MakeRun, tmp_path: Path, method: str, name: str, change: Callable[[dict[str, Any]], None]
) -> None:
    run = copied(finished(method), tmp_path)
    tensors = load_file(run / name)
    change(tensors)
    save_file(tensors, run / name)
    seal(run)
    with pytest.raises(UserError, match="doesn't fit the base model"):
        evaluate(run)


@pytest.mark.parametrize("damage", ["shape", "missing"])
def test_a_mask_that_does_not_fit_is_refused(finished: MakeRun, tmp_path: Path, damage: str) -> None:
    run = copied(finished("smp"), tmp_path)
    masks = read_masks(run / "mask.safetensors")
    name = "bert.encoder.layer.1.intermediate.dense"
    if damage == "shape":
        masks[name] = masks[name].T.contiguous()
    else:
        del masks[name]
    write_masks(run / "mask.safetensors", masks)
    seal(run)
    with pytest.raises(UserError, match=f"mask doesn't fit the base model at {name}"):
        evaluate(run)


def test_other_data_are_refused(finished: MakeRun, sentiment: Any, tmp_path: Path) -> None:
    data = tmp_path / "sentiment.csv"
    data.write_text(sentiment.csv.read_text() + "the film was fine,positive\n")
    run = copied(finished("smp"), tmp_path, sentiment.csv, data)
    with pytest.raises(UserError, match="the data of 'sentiment'"):
        evaluate(run)


@pytest.mark.parametrize("kind", ["classification", "span"])
def test_a_run_is_read_by_the_words_that_it_was_trained_with(
    pico: Any, sentiment: Any, quiz: Path, tmp_path: Path, kind: str
) -> None:
    """The task's words may change later, as SQuAD's have: what a run says must not change with them."""
    first, second = ("terrible", "great") if kind == "classification" else ("No", "Yes")
    task = tmp_path / "task.yaml"

    def write(one: str, other: str) -> None:
        if kind == "classification":
            text = sentiment.words.read_text().replace("file: ", f"file: {sentiment.words.parent}/")
            assert "{negative: terrible, positive: great}" in text
            text = text.replace("negative: terrible, positive: great", f"negative: {one}, positive: {other}")
        else:
            text = "title: Quiz\nkind: span\ntext: question\npair: context\nlabel: answers\nstride: 8\n"
            text += f"max_length: 36\nmetrics: [f1, exact_match]\nsource: {{file: {quiz}}}\n"
            text += f'words: {{start: "{one}", end: "{other}"}}\n'
        task.write_text(text)

    write(first, second)
    run = prune(str(task), "smp", 0.5, model=str(pico("bert-mlm")), head="words", max_steps=30, output=tmp_path / "r")
    outputs = ("negative", "positive") if kind == "classification" else ("start", "end")
    result = json.loads((run.path / "result.json").read_text())
    assert result["model"]["words"] == dict(zip(outputs, (first, second), strict=True))
    write(second, first)
    assert evaluate(run.path).agrees
    if kind == "span":
        # A run from before words were recorded has those of then.
        del result["model"]["words"]
        (run.path / "result.json").write_text(json.dumps(result))
        assert evaluate(run.path).agrees


@pytest.mark.parametrize(
    ("method", "name", "tensor"),
    [
        ("smp", "head.safetensors", "classifier.weight"),
        ("movement", "weights.safetensors", "bert.encoder.layer.0.output.dense.weight.kept"),
    ],
)
def test_a_stored_tensor_of_nan_is_named(
    finished: MakeRun, tmp_path: Path, method: str, name: str, tensor: str
) -> None:
    run = copied(finished(method), tmp_path)
    tensors = load_file(run / name)
    tensors[tensor].view(-1)[0] = torch.nan
    save_file(tensors, run / name)
    seal(run)
    with pytest.raises(UserError, match=f"{tensor} holds NaN or infinity"):
        evaluate(run)
