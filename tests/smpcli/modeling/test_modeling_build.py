"""Which head a model gets, and which tensors are the task's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn

from smpcli.api import export, load, prune
from smpcli.errors import UserError
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import build_model
from smpcli.modeling.heads import TaskModel
from smpcli.settings import resolve


def build(pico: Any, task: Path, model: str, **settings: Any) -> TaskModel:
    folder = str(pico(model))
    resolved = resolve(flags={"task": str(task), "model": folder, "method": "smp", **settings})
    return build_model(resolved.run.spec, resolved.task, ["negative", "positive"], load_tokenizer(folder))


@pytest.mark.parametrize("name", ["bert-mlm", "roberta", "distilbert", "electra", "mpnet"])
def test_auto_takes_label_words_where_there_is_an_mlm_head(pico: Any, sentiment: Any, name: str) -> None:
    model = build(pico, sentiment.words, name)
    assert model.head == "words"
    # Nothing of it belongs to the task: the words' rows are the base model's.
    assert model.own_parameters() == {}
    tokenizer = load_tokenizer(str(pico(name)))
    assert [tokenizer.decode([token]).strip() for token in model.word_ids or []] == ["terrible", "great"]
    assert model.mask_id == tokenizer.mask_token_id


def test_auto_takes_prototypes_without_an_mlm_head_or_without_words(pico: Any, sentiment: Any) -> None:
    for name, task in (("bert", sentiment.words), ("bert-mlm", sentiment.csv)):
        model = build(pico, task, name)
        assert (model.head, model.word_ids) == ("prototype", None)
        assert {"classifier.weight", "classifier.bias"} <= set(model.own_parameters())


def test_what_a_checkpoint_lacks_is_the_task_s_own(pico: Any, sentiment: Any) -> None:
    # A masked-LM BERT has no pooler; RoBERTa's head has a linear layer of its own.
    head = {"classifier.weight", "classifier.bias"}
    pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert set(build(pico, sentiment.csv, "bert").own_parameters()) == head
    assert set(build(pico, sentiment.csv, "bert-mlm").own_parameters()) == head | pooler
    assert set(build(pico, sentiment.csv, "roberta").own_parameters()) == {
        f"classifier.{layer}.{part}" for layer in ("dense", "out_proj") for part in ("weight", "bias")
    }


def test_an_output_layer_that_the_checkpoint_brings_is_the_task_s_own_too(
    pico: Any, sentiment: Any, tmp_path: Path
) -> None:
    # Fine-tuned before, for three labels: replaced; for two: kept until prototypes replace it.
    for labels in (3, 2):
        folder = tmp_path / str(labels)
        other = hf.AutoModelForSequenceClassification.from_pretrained(pico("bert"), num_labels=labels)
        other.save_pretrained(folder)
        hf.AutoTokenizer.from_pretrained(pico("bert")).save_pretrained(folder)
        model = build(lambda name, folder=folder: folder, sentiment.csv, "tuned")
        assert set(model.own_parameters()) == {"classifier.weight", "classifier.bias"}
        assert model.own_parameters()["classifier.weight"].shape == (2, 32)


def test_labels_are_named_in_the_configuration(pico: Any, sentiment: Any) -> None:
    config = build(pico, sentiment.csv, "bert", head="classifier").config
    assert config.id2label == {0: "negative", 1: "positive"}
    assert config.label2id == {"negative": 0, "positive": 1}
    assert config.problem_type == "single_label_classification"


def test_a_regression_has_one_output(pico: Any, sentiment: Any) -> None:
    model = build(pico, sentiment.scores, "bert")
    assert model.own_parameters()["classifier.weight"].shape == (1, 32)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


def test_words_are_refused_without_an_mlm_head(pico: Any, sentiment: Any) -> None:
    with pytest.raises(UserError, match="no trained language-model head for label words; use --set head=prototype"):
        build(pico, sentiment.words, "bert", head="words")


def test_words_are_refused_for_a_task_that_names_none(pico: Any, sentiment: Any) -> None:
    with pytest.raises(UserError, match="task 'sentiment' names no label word for 'negative'"):
        build(pico, sentiment.csv, "bert-mlm", head="words")


def test_auto_refuses_a_label_word_of_two_tokens(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    task = tmp_path / "two.yaml"
    text = sentiment.words.read_text().replace("great", "extraordinary")
    task.write_text(text.replace("sentiment.csv", str(sentiment.csv)))
    with pytest.raises(UserError, match=r"'extraordinary' .* is not one token of this model \(extra ##ordinary\)"):
        build(pico, task, "bert-mlm")


@pytest.mark.parametrize("name", ["bert", "distilbert", "electra"])
def test_dropout_is_the_model_s_own_or_the_one_asked_for(pico: Any, sentiment: Any, name: str) -> None:
    def rates(model: TaskModel) -> set[float]:
        return {module.p for module in model.modules() if isinstance(module, nn.Dropout)}

    assert 0.1 in rates(build(pico, sentiment.csv, name))
    assert rates(build(pico, sentiment.csv, name, dropout=0.0)) <= {0.0}
    assert 0.1 not in rates(build(pico, sentiment.csv, name, dropout=0.3))


def test_the_base_model_s_digest_is_the_same_whatever_head_is_made(pico: Any, sentiment: Any) -> None:
    torch.manual_seed(1)
    one = build(pico, sentiment.csv, "bert")
    torch.manual_seed(2)
    two = build(pico, sentiment.csv, "bert", head="classifier")
    assert not torch.equal(*(model.own_parameters()["classifier.weight"] for model in (one, two)))
    assert one.base_digest() == two.base_digest()


# -- a base that was fine-tuned before ---------------------------------------------------------------------


def tuned(pico: Any, folder: Path, names: list[str], **config: Any) -> tuple[Any, torch.Tensor]:
    """A `pico` of a model with a trained output layer for these labels, and the layer's rows."""
    model = hf.AutoModelForSequenceClassification.from_pretrained(
        pico("bert"), id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}, **config
    )
    with torch.no_grad():
        model.classifier.weight.copy_(torch.arange(len(names)).float()[:, None] + torch.linspace(0, 0.5, 32))
        model.classifier.bias.copy_(torch.arange(len(names)) * 10.0)
    model.save_pretrained(folder)
    hf.AutoTokenizer.from_pretrained(pico("bert")).save_pretrained(folder)
    return (lambda name: folder), model.classifier.weight.detach().clone()


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["negative", "positive"], [0, 1]),
        (["positive", "negative"], [1, 0]),
        (["POSITIVE", "Negative"], [1, 0]),
    ],
)
def test_a_trained_output_layer_s_rows_are_matched_by_name(
    pico: Any, sentiment: Any, tmp_path: Path, names: list[str], order: list[int]
) -> None:
    base, rows = tuned(pico, tmp_path, names)
    model = build(base, sentiment.csv, "tuned", head="classifier")
    found = model.own_parameters()
    assert torch.equal(found["classifier.weight"], rows[order])
    assert found["classifier.bias"].tolist() == [10.0 * row for row in order]
    assert model.notes == []


@pytest.mark.parametrize(
    "names", [["LABEL_0", "LABEL_1"], ["good", "bad"], ["negative", "neutral", "positive"], ["negative"]]
)
def test_an_output_layer_of_other_labels_starts_anew_and_that_is_said(
    pico: Any, sentiment: Any, tmp_path: Path, names: list[str]
) -> None:
    base, rows = tuned(pico, tmp_path, names)
    torch.manual_seed(5)
    model = build(base, sentiment.csv, "tuned", head="classifier")
    found = model.own_parameters()
    # What the library draws for a new layer: pico models' initializer_range is 0.15; biases are 0.
    assert found["classifier.weight"].shape == (2, 32)
    assert 0.1 < found["classifier.weight"].std() < 0.2 and abs(found["classifier.weight"].mean()) < 0.1
    assert not any(torch.equal(row, old) for row in found["classifier.weight"] for old in rows)
    assert found["classifier.bias"].tolist() == [0.0, 0.0]
    (note,) = model.notes
    assert f"is for {', '.join(names)}, the task asks for negative, positive: it starts from random weights" in note
    assert build(base, sentiment.csv, "tuned", head="prototype").notes == []


def test_a_base_without_an_output_layer_needs_no_word(pico: Any, sentiment: Any) -> None:
    assert build(pico, sentiment.csv, "bert", head="classifier").notes == []


@pytest.mark.parametrize("names", [["stars"], ["bad", "good"]])
def test_a_regression_keeps_a_single_row(pico: Any, sentiment: Any, tmp_path: Path, names: list[str]) -> None:
    base, rows = tuned(pico, tmp_path, names)
    model = build(base, sentiment.scores, "tuned", head="classifier")
    weight = model.own_parameters()["classifier.weight"]
    assert torch.equal(weight, rows) == (len(names) == 1)
    assert weight.shape == (1, 32) and len(model.notes) == len(names) - 1


def test_a_run_keeps_a_fine_tuned_base_s_answers_by_name(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    # Nothing is trained (a rate of 0) and nothing falls: every answer is the base's own, whatever it calls first.
    base, _ = tuned(pico, tmp_path / "base", ["positive", "negative"])
    stock = hf.AutoModelForSequenceClassification.from_pretrained(base("tuned")).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(base("tuned"))
    notes: list[str] = []
    run = prune(
        str(sentiment.csv), "dense", model=str(base("tuned")), head="classifier", max_steps=1, weights_lr=0.0,
        output=tmp_path / "results", progress=Listening(notes),
    )  # fmt: skip
    assert not any("starts from random weights" in note for note in notes)
    texts = [text for text, _ in sentiment.rows[:20]]
    with torch.no_grad():
        expected = stock(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    ready = load(run.path)
    assert ready.labels == ["negative", "positive"]
    # Theirs are positive, negative.
    assert torch.allclose(ready.logits(texts), expected[:, [1, 0]], atol=1e-5)
    exported = load(export(run.path, "hf", output=tmp_path / "hf").path)
    assert torch.allclose(exported.logits(texts), expected[:, [1, 0]], atol=1e-5)


def test_a_run_says_that_the_output_layer_starts_anew(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    base, _ = tuned(pico, tmp_path / "base", ["good", "bad"])
    notes: list[str] = []
    prune(
        str(sentiment.csv), model=str(base("tuned")), head="classifier", max_steps=1, output=tmp_path / "results",
        progress=Listening(notes),
    )  # fmt: skip
    assert sum("is for good, bad, the task asks for negative, positive" in note for note in notes) == 1


class Listening:
    """A run's audience that keeps its notes."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    def phase(self, name: str) -> None: ...
    def step(self, step: Any) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)


def test_an_hf_export_without_its_head_is_refused(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    run = prune(str(sentiment.csv), model=str(pico("bert")), max_steps=1, output=tmp_path / "results")
    folder = export(run.path, "hf", output=tmp_path / "hf").path
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("classifier.bias")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks classifier\.bias of its head; export the run again"):
        load(folder)


@pytest.mark.parametrize("lost", ["cls.predictions.transform.dense.weight", "cls.predictions.bias"])
def test_half_a_language_model_head_is_refused_and_not_replaced(
    pico: Any, sentiment: Any, tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / "half"
    shutil.copytree(pico("bert-mlm"), folder)
    state = load_file(folder / "model.safetensors")
    # Its bias is stored under two names.
    names = {lost, lost.replace("predictions.bias", "predictions.decoder.bias")}
    kept = {key: tensor for key, tensor in state.items() if key not in names}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=rf"lacks {lost} of its language-model head"):
        build(lambda name: name, sentiment.words, str(folder), head="auto")
    bare = {key: tensor for key, tensor in state.items() if not key.startswith("cls.")}
    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    assert build(lambda name: name, sentiment.words, str(folder), head="auto").head == "prototype"
