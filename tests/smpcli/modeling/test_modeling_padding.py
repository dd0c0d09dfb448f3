"""A model whose answer depends on the texts beside it is refused wherever one is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from unusual import save_unusual

from smpcli import UserError, load, prune
from smpcli.modeling.backbone import load_config, load_tokenizer
from smpcli.modeling.build import rebuild
from smpcli.modeling.padding import check_padding

REFUSED = "'fnet' can't be used: it answers a text of 4 tokens differently when it is padded"


@pytest.fixture(scope="module")
def fnet(pico: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_unusual("fnet", tmp_path_factory.mktemp("models") / "fnet", pico("bert-mlm"))


def test_fnet_answers_by_its_neighbours(fnet: Path) -> None:
    """The premise, by transformers alone: one text, alone and beside a longer one."""
    import transformers as hf

    model = hf.FNetForMaskedLM.from_pretrained(fnet).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(fnet)
    with torch.no_grad():
        alone = model(input_ids=tokenizer("a film", return_tensors="pt").input_ids).logits[0, 0]
        both = tokenizer(["a film", "a film that is good and warm"], padding=True, return_tensors="pt")
        beside = model(input_ids=both.input_ids).logits[0, 0]
    assert (alone - beside).abs().max() > 0.1


@pytest.mark.parametrize("head", ["words", "prototype", "classifier"])
@pytest.mark.parametrize("method", ["smp", "dense"])
def test_such_a_model_is_refused_before_anything_is_written(
    fnet: Path, sentiment: Any, tmp_path: Path, head: str, method: str
) -> None:
    with pytest.raises(UserError, match=REFUSED):
        prune(str(sentiment.words), method, model=str(fnet), head=head, max_steps=1, output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_such_a_model_is_refused_for_a_span_task(fnet: Path, quiz: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=REFUSED):
        prune(str(quiz), "smp", model=str(fnet), head="prototype", max_steps=1, output=tmp_path)


def test_such_a_model_is_refused_as_a_teacher(fnet: Path, pico: Any, sentiment: Any, tmp_path: Path) -> None:
    import transformers as hf

    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    hf.FNetForSequenceClassification.from_pretrained(fnet, **labels).save_pretrained(tmp_path / "teacher")
    load_tokenizer(str(fnet)).save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match=REFUSED):
        prune(
            str(sentiment.words),
            "smp",
            model=str(pico("bert")),
            teacher=str(tmp_path / "teacher"),
            max_steps=1,
            output=tmp_path / "runs",
        )


def test_such_a_model_is_refused_where_it_is_loaded_again(
    fnet: Path, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs and exports of it were made before there was this check."""
    from smpcli.modeling import build

    with monkeypatch.context() as patch:
        patch.setattr(build, "check_padding", lambda *given: None)
        run = prune(str(sentiment.words), "smp", model=str(fnet), head="prototype", max_steps=1, output=tmp_path)
    with pytest.raises(UserError, match=REFUSED):
        load(run.path)
    with pytest.raises(UserError, match=REFUSED):
        rebuild(str(fnet), load_tokenizer(str(fnet)), "classification", "prototype", ["bad", "good"])


@pytest.mark.parametrize("name", ["bert-mlm", "roberta", "distilbert", "albert", "deberta-v2", "modernbert", "gpt2"])
@pytest.mark.parametrize("words", [None, [9, 12]])
def test_models_that_heed_the_mask_pass(pico: Any, name: str, words: list[int] | None) -> None:
    head = "prototype" if words is None else "words"
    tokenizer = load_tokenizer(str(pico(name)))
    assert rebuild(str(pico(name)), tokenizer, "classification", head, ["bad", "good"], words).head == head


class Tokenizer:
    """As many tokens as words."""

    pad_token_id = 0

    def __call__(self, texts: list[str], return_attention_mask: bool) -> dict[str, list[list[int]]]:
        ids = [[len(word) for word in text.split()] for text in texts]
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}


class Mean(nn.Module):
    """The mean of the token ids that the mask shows, with some part of what it hides."""

    def __init__(self, leaks: float) -> None:
        super().__init__()
        self.leaks = leaks

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask + self.leaks * (1 - attention_mask)
        return ((input_ids + 1.0) * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("leaks", [0.0, 1e-7, 0.01, 1.0])
def test_rounding_is_let_through_and_a_hundredth_of_the_padding_is_not(leaks: float) -> None:
    if leaks < 1e-3:
        check_padding(Mean(leaks), "mean", Tokenizer())
        return
    with pytest.raises(UserError, match="'mean' can't be used: it answers a text of 2 tokens differently"):
        check_padding(Mean(leaks), "mean", Tokenizer())


def test_a_model_that_cannot_compute_a_short_text_is_refused_in_one_line() -> None:
    class Fails(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return input_ids.view(-1, 7)

    with pytest.raises(UserError, match=r"'some' can't be used: it fails on a text of 2 tokens \(RuntimeErr"):
        check_padding(Fails(), "some", Tokenizer())


def test_bigbird_has_one_kind_of_attention_whatever_came_before(pico: Any, tmp_path: Path) -> None:
    """A long text's answer is the same before and after a short one: transformers switches at the first short one."""
    folder = save_unusual("big_bird", tmp_path / "big_bird", pico("bert-mlm"))
    assert load_config(str(folder)).attention_type == "original_full"
    model = rebuild(str(folder), load_tokenizer(str(folder)), "classification", "words", ["bad", "good"], [9, 12])
    model.eval()
    ids = torch.arange(5, 61)[None]
    with torch.no_grad():
        first = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        model(input_ids=ids[:, :4], attention_mask=torch.ones_like(ids[:, :4]))
        second = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert torch.equal(first, second)
