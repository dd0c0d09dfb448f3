"""Activations that are computed twice are the same activations, so nothing else may change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.bert.modeling_bert import BertIntermediate, BertPreTrainedModel

from smpcli import UserError, prune


def trained(pico: Any, sentiment: Any, output: Path, **settings: Any) -> Path:
    return prune(
        str(sentiment.csv), "smp", 0.7, model=str(pico("bert")), output=output, max_steps=8, dropout=0.1, **settings
    ).path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_mask_is_the_same(
    pico: Any, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    calls: list[bool] = []
    original = BertIntermediate.forward

    def counted(self: Any, *args: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return original(self, *args)

    monkeypatch.setattr(BertIntermediate, "forward", counted)
    plain = trained(pico, sentiment, tmp_path / "plain", precision=precision)
    once = sum(calls)
    calls.clear()
    twice = trained(pico, sentiment, tmp_path / "twice", precision=precision, gradient_checkpointing=True)
    # Each of two layers in each of eight steps: once in the forward pass, once more in the backward pass. Before them
    # a trial asks whether the answers pass gradients on, and takes none.
    trial = 2
    assert once == trial + 2 * 8
    assert sum(calls) == trial + 2 * 2 * 8
    assert (plain / "mask.safetensors").read_bytes() == (twice / "mask.safetensors").read_bytes()
    assert (plain / "metrics.jsonl").read_bytes() == (twice / "metrics.jsonl").read_bytes()


def test_a_model_that_cannot_is_refused(
    pico: Any, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BertPreTrainedModel, "supports_gradient_checkpointing", False)
    with pytest.raises(UserError, match="can't recompute activations; leave out gradient_checkpointing"):
        trained(pico, sentiment, tmp_path, gradient_checkpointing=True)
