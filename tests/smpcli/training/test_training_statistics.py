"""Input statistics against one sentence at a time, without padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.layers import masked_layers
from smpcli.training.statistics import input_statistics


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_padding_counts_for_nothing(pico: Any, sentiment: Any, name: str) -> None:
    backbone = AutoModelForSequenceClassification.from_pretrained(pico(name))
    model = TaskModel(backbone, "prototype", set())
    tokenizer = load_tokenizer(str(pico(name)))
    layers = masked_layers(backbone, backbone.config)
    texts = [text for text, _ in sentiment.rows[:12]]
    batches = [dict(tokenizer(texts[start : start + 5], padding=True, return_tensors="pt")) for start in (0, 5, 10)]
    assert any(int(batch["attention_mask"].min()) == 0 for batch in batches)
    model.train()
    found = input_statistics(model, layers, batches)
    assert model.training

    # Plainly: every token of every sentence, each sentence by itself.
    squares: dict[str, Tensor] = {}

    def watch(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            for token in args[0].reshape(-1, args[0].shape[-1]).double():
                squares[path] = squares.get(path, torch.zeros_like(token)) + token**2

        return hook

    for layer in layers:
        layer.module.register_forward_pre_hook(watch(layer.name))
    backbone.eval()
    with torch.no_grad():
        for text in texts:
            backbone(**tokenizer(text, return_tensors="pt"))
    assert found.keys() == squares.keys() == {layer.name for layer in layers}
    for layer in layers:
        norm = found[layer.name].input_norm
        assert norm.shape == (layer.weight.shape[1],)
        torch.testing.assert_close(norm.double(), squares[layer.name].sqrt(), rtol=1e-4, atol=1e-4)


def test_no_hook_stays(pico: Any) -> None:
    backbone = AutoModelForSequenceClassification.from_pretrained(pico("bert"))
    layers = masked_layers(backbone, backbone.config)
    inputs = dict(load_tokenizer(str(pico("bert")))(["a film"], return_tensors="pt"))
    found = input_statistics(TaskModel(backbone, "prototype", set()), layers, [inputs])
    before = {name: statistics.input_norm.clone() for name, statistics in found.items()}
    backbone(**inputs)
    assert all(torch.equal(found[name].input_norm, before[name]) for name in found)
    assert not any(module._forward_pre_hooks for module in backbone.modules())
