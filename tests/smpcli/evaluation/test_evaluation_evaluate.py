"""Evaluation against one example at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from smpcli.encoding.batches import Encoded, encode, logits_in_parts
from smpcli.evaluation.evaluate import evaluate
from smpcli.kinds.kind import in_order
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.heads import TaskModel
from smpcli.tasks.data import Examples

CPU = torch.device("cpu")


@pytest.fixture
def model(pico: Any) -> TaskModel:
    return TaskModel(AutoModelForSequenceClassification.from_pretrained(pico("bert")), "classifier", set())


def encoded(pico: Any, sentiment: Any, rows: slice) -> Encoded:
    texts = [text for text, _ in sentiment.rows[rows]]
    labels = [int(label == "positive") for _, label in sentiment.rows[rows]]
    return encode(load_tokenizer(str(pico("bert"))), Examples(texts, None, labels), 40)


def test_logits_come_in_the_order_of_the_examples_and_without_dropout(
    pico: Any, sentiment: Any, model: TaskModel
) -> None:
    # More than two batches, sorted by length inside.
    data = encoded(pico, sentiment, slice(0, 150))
    model.train()
    found = in_order(logits_in_parts(model, data, CPU))
    assert model.training
    assert not found.requires_grad
    model.eval()
    with torch.no_grad():
        alone = torch.cat([model(**data.collate([index])[0]) for index in range(150)])
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
    assert not (found[1:] == found[:-1]).all()


def test_each_split_has_its_metrics_and_predictions(pico: Any, sentiment: Any, model: TaskModel) -> None:
    splits = {"matched": slice(0, 30), "mismatched": slice(30, 70)}
    dev = {name: encoded(pico, sentiment, rows) for name, rows in splits.items()}
    found = evaluate(model, dev, ["accuracy", "f1"], "classification", CPU)
    assert list(found.metrics) == ["accuracy_matched", "f1_matched", "accuracy_mismatched", "f1_mismatched"]
    for name, suffix in (("matched", "_matched"), ("mismatched", "_mismatched")):
        predictions, labels = found.predictions[name], dev[name].labels.tolist()
        right = sum(guess == label for guess, label in zip(predictions, labels, strict=True))
        assert found.metrics[f"accuracy{suffix}"] == right / len(labels)


def test_a_regression_is_measured_by_its_values(pico: Any, sentiment: Any) -> None:
    class Length(nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
            return attention_mask.sum(1, keepdim=True).float()

    data = encoded(pico, sentiment, slice(0, 20))
    lengths = Encoded(data.columns, torch.from_numpy(data.lengths * 2.0 + 1), data.padding)
    found = evaluate(Length(), {"dev": lengths}, ["pearson", "spearman"], "regression", CPU)
    assert found.metrics == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    assert found.predictions["dev"] == data.lengths.tolist()
