"""What a model must do before it is trained, and architectures of BERT's names that aren't BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from unusual import save_unusual

from smpcli import UserError, evaluate, export, prune
from smpcli.evaluation.recompute import reopen


def prune_tiny(model: Path, sentiment: Any, output: Path, **settings: Any) -> Any:
    chosen = {"head": "words", "max_steps": 4, "batch_size": 16, "precision": "fp32", **settings}
    return prune(str(sentiment.words), "smp", 0.8, model=str(model), output=output, evaluations=1, **chosen)


@pytest.mark.parametrize("name", ["roformer", "rembert", "big_bird", "mra", "megatron-bert", "canine"])
def test_the_default_prunes_models_that_cannot_compute_with_fewer_heads(
    pico: Any, sentiment: Any, tmp_path: Path, name: str
) -> None:
    model = save_unusual(name, tmp_path / name, pico("bert-mlm"))
    run = prune_tiny(model, sentiment, tmp_path, head="prototype")
    assert run.result.weights.kept == int(0.2 * run.result.weights.prunable)
    assert evaluate(run.path).agrees
    with pytest.raises(UserError, match=rf"'{name}' can't be made compact"):
        export(run.path, "compact", output=tmp_path / "compact")
    assert not (tmp_path / "compact").exists()


@pytest.mark.parametrize(
    ("name", "unused"),
    [("luke", "luke.encoder.layer.0.attention.self.w2e_query"), ("pegasus", "decoder.layers.0.encoder_attn")],
)
@pytest.mark.parametrize("settings", [{}, {"init": "zero", "structure": 1.0}])
def test_matrices_that_no_text_reaches_are_refused(
    pico: Any, sentiment: Any, tmp_path: Path, name: str, unused: str, settings: dict[str, Any]
) -> None:
    tokenizer = pico("gpt2") if name == "pegasus" else pico("bert-mlm")
    model = save_unusual(name, tmp_path / name, tokenizer)
    with pytest.raises(UserError, match=rf"'{name}' can't be pruned: texts never reach .*{unused}"):
        prune_tiny(model, sentiment, tmp_path / "runs", **settings)
    assert not (tmp_path / "runs").exists()


def test_blocks_that_pass_no_gradient_on_are_refused(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    model = save_unusual("reformer", tmp_path / "reformer", pico("bert-mlm"))
    with pytest.raises(UserError, match="'reformer' can't be pruned: its answers pass no gradient on"):
        prune_tiny(model, sentiment, tmp_path / "runs")


def test_label_words_are_read_at_the_last_token_whatever_calls_the_base_model(
    pico: Any, sentiment: Any, tmp_path: Path
) -> None:
    """OPT's language model calls what is inside its base model, so that no hook on that is ever called."""
    folder = save_unusual("opt", tmp_path / "opt", pico("gpt2"))
    run = prune_tiny(folder, sentiment, tmp_path)
    reopened = reopen(run.path)
    model, tokenizer = reopened.model, reopened.tokenizer
    texts = ["a good film", "a film that is bad and dull"]
    encoded = [tokenizer(text, return_tensors="pt") for text in texts]
    longest = max(one.input_ids.shape[1] for one in encoded)
    ids = torch.full((2, longest), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    expected = []
    with torch.no_grad():
        for row, one in enumerate(encoded):
            length = one.input_ids.shape[1]
            ids[row, :length], mask[row, :length] = one.input_ids[0], 1
            expected.append(model.backbone(**one).logits[0, -1, model.word_ids])
        found = model(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
