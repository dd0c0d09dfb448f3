"""The mask of four dimensions: the same answers without a question, or the mask that a model was always given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from smpcli.modeling.attention import confirm_whole_mask, whole_mask
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import build_model
from smpcli.modeling.heads import TaskModel
from smpcli.settings import resolve
from smpcli.training.launches import recorded

TEXTS = ["bad", "a film that was made for an audience of one with some dull actor", "the plot was good"]
ASKING = ["bert", "bert-mlm", "roberta", "distilbert", "electra", "albert", "gpt2", "llama"]
Inputs = dict[str, Tensor]


def built(pico: Any, task: Any, name: str, kind: str = "eager", texts: list[str] = TEXTS) -> tuple[TaskModel, Inputs]:
    """A model without dropout, with this kind of attention, in training; and padded texts."""
    flags = {"task": str(task), "model": str(pico(name)), "dropout": 0.0}
    settings = resolve(flags=flags | ({"stride": 8} if str(task).endswith("json") else {}))
    tokenizer = load_tokenizer(settings.run.model)
    torch.manual_seed(0)
    model = build_model(settings.run.spec, settings.task, ["negative", "positive"], tokenizer)
    model.backbone.set_attn_implementation(kind)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    assert int(inputs["attention_mask"].sum()) < inputs["attention_mask"].numel()
    return model.train(), dict(inputs)


def asked(model: TaskModel, inputs: Inputs) -> Callable[[], Tensor]:
    def compute() -> Tensor:
        answers: Tensor = model.eval()(**inputs)
        model.train()
        return answers

    return compute


@pytest.mark.parametrize("causal", [False, True])
def test_each_token_sees_the_tokens_of_its_text(causal: bool) -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    found = whole_mask(mask, causal, additive=False)
    added = whole_mask(mask, causal, additive=True)
    assert (found.shape, found.dtype, added.dtype) == ((3, 1, 4, 4), torch.bool, torch.float32)
    for row, length in enumerate((4, 2, 1)):
        for query in range(4):
            for key in range(4):
                sees = key < length and (key <= query or not causal)
                assert found[row, 0, query, key] == sees
                assert added[row, 0, query, key] == (0.0 if sees else torch.finfo(torch.float32).min)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "kind"), [*((name, kind) for name in ASKING for kind in ("eager", "sdpa")), ("mpnet", "eager")]
)
def test_a_model_answers_the_same_and_asks_nothing(
    pico: Any, sentiment: Any, name: str, kind: str, precision: str
) -> None:
    model, inputs = built(pico, sentiment.words, name, kind)

    def step() -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            answers: Tensor = model(**inputs)
        answers.float().square().sum().backward()
        return torch.cat([answers.flatten(), *(p.grad.flatten() for p in model.parameters() if p.grad is not None)])

    before, evaluated = step(), asked(model, inputs)()
    # An additive causal mask is made without a look into it.
    asks = name not in ("gpt2", "llama") or kind == "sdpa"
    assert bool(recorded(step).waits) == asks
    assert confirm_whole_mask(model, asked(model, inputs))
    if (name, kind, precision) == ("electra", "eager", "bf16"):
        # What it adds its own mask to is rounded to bfloat16, as that is: its embeddings are projected.
        torch.testing.assert_close(step(), before, rtol=0.05, atol=0.05)
    else:
        assert torch.equal(step(), before)
    assert not recorded(step).waits
    # In evaluation it still gets the mask that it always did.
    assert bool(recorded(asked(model, inputs)).waits) == asks
    assert torch.equal(asked(model, inputs)(), evaluated)


@pytest.mark.parametrize("name", ["bert-mlm", "bert", "roberta", "gpt2"])
@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_a_model_of_spans_answers_the_same(pico: Any, quiz: Any, name: str, kind: str) -> None:
    model, inputs = built(pico, quiz, name, kind)
    before = model(**inputs)
    assert before.shape == (3, 2, inputs["input_ids"].shape[1])
    assert confirm_whole_mask(model, asked(model, inputs))
    assert torch.equal(model(**inputs), before)
    assert not recorded(lambda: model(**inputs)).waits


@pytest.mark.parametrize("name", ["deberta-v2", "deberta-v3", "modernbert"])
def test_a_model_that_means_something_else_by_it_keeps_its_mask(pico: Any, sentiment: Any, name: str) -> None:
    """DeBERTa makes its own of the mask; ModernBERT's sliding windows are shorter than these texts."""
    model, inputs = built(pico, sentiment.words, name)
    before = model(**inputs)
    assert not confirm_whole_mask(model, asked(model, inputs))
    assert torch.equal(model(**inputs), before)


def test_texts_within_a_window_are_all_there_is(pico: Any, sentiment: Any) -> None:
    model, inputs = built(pico, sentiment.words, "modernbert", texts=["bad", "a film"])
    before = model(**inputs)
    assert confirm_whole_mask(model, asked(model, inputs))
    assert torch.equal(model(**inputs), before)


@pytest.mark.parametrize("planted", ["takes no notice", "refuses", "of another shape"])
@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_a_planted_model_keeps_its_mask(
    pico: Any, sentiment: Any, monkeypatch: pytest.MonkeyPatch, planted: str, kind: str
) -> None:
    model, inputs = built(pico, sentiment.words, "bert", kind)
    forward, given = model.backbone.forward, list[int]()

    def other(attention_mask: Tensor, **more: Tensor) -> Any:
        given.append(attention_mask.ndim)
        if attention_mask.ndim == 2:
            return forward(attention_mask=attention_mask, **more)
        if planted == "refuses":
            raise ValueError("Wrong shape for attention_mask")
        found = forward(attention_mask=torch.ones_like(inputs["attention_mask"]), **more)
        if planted == "of another shape":
            found.logits = found.logits[:1]
        return found

    monkeypatch.setattr(model.backbone, "forward", other)
    before = model(**inputs)
    assert not confirm_whole_mask(model, asked(model, inputs))
    assert torch.equal(model(**inputs), before)
    assert given == [2, 2, 4, 2]


def test_a_lack_of_memory_is_no_answer(pico: Any, sentiment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = built(pico, sentiment.words, "bert")

    def full(**more: Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.backbone, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        confirm_whole_mask(model, asked(model, inputs))


def test_attention_of_another_kind_is_left_alone(pico: Any, sentiment: Any) -> None:
    model, _ = built(pico, sentiment.words, "bert")
    model.config._attn_implementation = "flash_attention_2"

    def never() -> Tensor:
        raise AssertionError("asked")

    assert not confirm_whole_mask(model, never)
