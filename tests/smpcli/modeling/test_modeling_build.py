"""Which head a model gets, and which tensors are the task's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from smpcli.errors import UserError
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import build_model
from smpcli.modeling.heads import TaskModel
from smpcli.settings import resolve


def build(pico: Any, task: Path, model: str, **settings: Any) -> TaskModel:
    folder = str(pico(model))
    resolved = resolve(flags={"task": str(task), "model": folder, "method": "smp", **settings})
    return build_model(resolved.run, resolved.task, ["negative", "positive"], load_tokenizer(folder))


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
    with pytest.raises(UserError, match="no trained language-model head for label words: use --set head=prototype"):
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
