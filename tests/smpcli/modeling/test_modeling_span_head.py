"""Heads of span tasks: words against the plain masked-LM model, prototypes against centroids computed plainly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import build_model
from smpcli.modeling.span_head import SpanModel, set_span_prototypes
from smpcli.settings import resolve

MLM = ["bert-mlm", "roberta", "distilbert", "electra", "mpnet"]


def span_model(pico: Any, quiz: Any, name: str, head: str) -> tuple[SpanModel, Any]:
    settings = resolve(flags={"task": str(quiz), "model": str(pico(name)), "head": head, "stride": 8})
    tokenizer = load_tokenizer(settings.run.model)
    torch.manual_seed(0)
    model = build_model(settings.run.spec, settings.task, [], tokenizer)
    assert isinstance(model, SpanModel)
    return model.eval(), tokenizer


def pairs(tokenizer: Any) -> Any:
    return tokenizer(
        ["which one is good", "which"],
        ["the film was great and dull .", "a fine cast before the hour ."],
        padding=True,
        return_tensors="pt",
    )


@pytest.mark.parametrize("name", MLM)
def test_words_head_is_the_full_logits_of_yes_and_no_at_every_token(pico: Any, quiz: Any, name: str) -> None:
    model, tokenizer = span_model(pico, quiz, name, "auto")
    assert model.head == "words" and not model.own_parameters()
    inputs = pairs(tokenizer)
    plain = hf.AutoModelForMaskedLM.from_pretrained(pico(name)).eval()
    space = "\u0120" if name == "roberta" else ""
    no, yes = tokenizer.convert_tokens_to_ids([f"{space}No", f"{space}Yes"])
    with torch.no_grad():
        full = plain(**inputs).logits
        found = model(**inputs)
    assert found.shape == (2, 2, inputs["input_ids"].shape[1])
    torch.testing.assert_close(found[:, 0], full[..., yes], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[:, 1], full[..., no], rtol=1e-5, atol=1e-5)
    model(**inputs).square().sum().backward()
    for path, parameter in model.backbone.base_model.named_parameters():
        if ".layer." in path and path.endswith("weight"):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, path


def test_the_words_model_is_saved_as_it_came(pico: Any, quiz: Any, tmp_path: Any) -> None:
    model, _ = span_model(pico, quiz, "bert-mlm", "words")
    model.backbone.save_pretrained(tmp_path)
    plain = hf.AutoModelForMaskedLM.from_pretrained(pico("bert-mlm")).state_dict()
    saved = hf.AutoModelForMaskedLM.from_pretrained(tmp_path).state_dict()
    assert saved.keys() == plain.keys() and all(torch.equal(saved[name], plain[name]) for name in plain)


@pytest.mark.parametrize("name", ["bert", *MLM])
def test_the_stock_head_gives_its_start_and_end_logits(pico: Any, quiz: Any, name: str) -> None:
    model, tokenizer = span_model(pico, quiz, name, "classifier")
    assert model.head == "classifier"
    assert sorted(model.own_parameters()) == ["qa_outputs.bias", "qa_outputs.weight"]
    inputs = pairs(tokenizer)
    with torch.no_grad():
        stock = model.backbone(**inputs)
        found = model(**inputs)
    assert torch.equal(found[:, 0], stock.start_logits) and torch.equal(found[:, 1], stock.end_logits)
    assert type(model.backbone).__name__.endswith("ForQuestionAnswering")


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_prototypes_are_the_nearest_orthogonal_rows_to_the_centroids(pico: Any, quiz: Any, name: str) -> None:
    model, tokenizer = span_model(pico, quiz, name, "prototype")
    inputs = pairs(tokenizer)
    # Answers "great and" (tokens 9 to 10 of the first window), "fine" (one token), and none in a third window.
    inputs = {key: torch.cat([value, value[:1]]) for key, value in inputs.items()}
    labels = torch.tensor([[9, 10], [4, 4], [0, 0]])
    model.train()
    set_span_prototypes(model, [(inputs, labels)], 3.0)
    assert model.training

    model.eval()
    with torch.no_grad():
        hidden = model.backbone.base_model(**inputs).last_hidden_state
    start, end, rest = [], [], []
    for row in (0, 1):
        for token in range(int(inputs["attention_mask"][row].sum())):
            vector = hidden[row, token].double()
            if token == labels[row, 0]:
                start.append(vector)
            if token == labels[row, 1]:
                end.append(vector)
            if token not in labels[row].tolist():
                rest.append(vector)
    centre = torch.stack(rest).mean(0)
    towards = [torch.stack(found).mean(0) - centre for found in (start, end)]
    one, two = (vector / vector.norm() for vector in towards)
    # Two unit vectors at an angle are made orthogonal by turning each away from their middle by the same angle.
    middle, across = (one + two) / (one + two).norm(), (one - two) / (one - two).norm()
    expected = 3.0 * torch.stack([middle + across, middle - across]) / 2**0.5
    layer = model.backbone.qa_outputs
    torch.testing.assert_close(layer.weight.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.weight @ layer.weight.T, 9 * torch.eye(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer.bias.double(), -expected @ centre, rtol=1e-4, atol=1e-4)


def test_prototypes_of_answers_of_one_token_can_still_be_told_apart(pico: Any, quiz: Any) -> None:
    model, tokenizer = span_model(pico, quiz, "bert", "prototype")
    set_span_prototypes(model, [(dict(pairs(tokenizer)), torch.tensor([[9, 9], [4, 4]]))], 3.0)
    weight = model.backbone.qa_outputs.weight
    assert weight.isfinite().all()
    torch.testing.assert_close(weight @ weight.T, 9 * torch.eye(2), rtol=1e-4, atol=1e-4)
