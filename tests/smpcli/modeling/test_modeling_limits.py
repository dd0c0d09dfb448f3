"""How many tokens, positions and segments a model has rows for, whatever its tables are called."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from smpcli import api
from smpcli.errors import UserError
from smpcli.export.ready import Ready
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.limits import Limits, check_fits, limits_of

SIZES: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 40, "pad_token_id": 1,
}  # fmt: skip
GPT: dict[str, Any] = {
    "vocab_size": 99,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 40,
    "pad_token_id": 1,
}
CONFIGS = {
    "bert": hf.BertConfig(**SIZES),
    "roberta": hf.RobertaConfig(**SIZES),  # counts from behind the padding: 38 tokens
    "mpnet": hf.MPNetConfig(**SIZES),
    "nystromformer": hf.NystromformerConfig(**SIZES),  # a table of 42 rows for 40 positions
    "longformer": hf.LongformerConfig(attention_window=[8], **SIZES),
    "opt": hf.OPTConfig(ffn_dim=16, word_embed_proj_dim=16, **SIZES),  # embed_positions, begins at 2
    "biogpt": hf.BioGptConfig(**SIZES),
    "openai-gpt": hf.OpenAIGPTConfig(**GPT),  # positions_embed
    "gpt2": hf.GPT2Config(**GPT),
    "xlm": hf.XLMConfig(
        vocab_size=99, emb_dim=16, n_layers=1, n_heads=2, max_position_embeddings=40, pad_token_id=1, pad_index=1
    ),
    "roformer": hf.RoFormerConfig(**SIZES),
    "llama": hf.LlamaConfig(**SIZES),  # rotary: no table
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_longest_text_is_the_longest_that_the_model_computes(name: str) -> None:
    torch.manual_seed(0)
    model = hf.AutoModelForSequenceClassification.from_config(CONFIGS[name]).eval()
    found = limits_of(model)

    def computes(length: int) -> bool:
        ids = torch.full((1, length), 5)
        try:
            with torch.no_grad():
                model(input_ids=ids, attention_mask=torch.ones_like(ids))
        except (IndexError, RuntimeError):
            return False
        return True

    lengths = [length for length in range(30, 60) if computes(length)]
    if name == "longformer":  # it pads each text to a multiple of its window, and those have positions, too
        assert found.positions is not None and max(lengths) <= found.positions
    else:
        assert found.positions == (None if name == "llama" else max(lengths))
    assert found.tokens == 99


def test_trying_a_model_changes_nothing() -> None:
    model = hf.AutoModelForSequenceClassification.from_config(CONFIGS["bert"]).train()
    before = torch.random.get_rng_state()
    assert limits_of(model, ["input_ids", "token_type_ids"]) == Limits(99, 40, 2)
    assert model.training and torch.equal(torch.random.get_rng_state(), before)


def test_each_refusal_names_numbers_and_a_way_out() -> None:
    limits = Limits(tokens=10, positions=3, segments=1)
    check_fits(limits, {"input_ids": [[9, 0, 1]], "token_type_ids": [[0, 0, 0]]})
    for columns, message in (
        ({"input_ids": [[1, 2, 3, 4]]}, "texts of up to 4 tokens, where the model takes 3; add --set max_length=3"),
        ({"input_ids": [[1], [2, 10]]}, "token id 10, where the model's table ends at 9; .*resize_token_embeddings"),
        ({"input_ids": [[1, 2]], "token_type_ids": [[0, 1]]}, "numbers a second text's tokens 1.*up to 0; "),
    ):
        with pytest.raises(UserError, match=message):
            check_fits(limits, columns)
    check_fits(Limits(), {"input_ids": [[10**6] * 1000]})


@pytest.fixture
def enlarged(pico: Any, tmp_path: Path) -> str:
    """A model to whose tokenizer a token was added, and no row to its embeddings."""
    folder = tmp_path / "enlarged"
    shutil.copytree(pico("bert"), folder)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.add_tokens(["<user>"]) == 1
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_token_without_a_row_stops_a_run_before_its_first_step(
    enlarged: str, sentiment: Any, tmp_path: Path
) -> None:
    rows = [f"{text}{' <user>' * (number == 7)},{label}" for number, (text, label) in enumerate(sentiment.rows)]
    data = tmp_path / "tagged.csv"
    data.write_text("\n".join(["text,label", *rows]))
    top = len(load_tokenizer(enlarged)) - 1
    with pytest.raises(UserError, match=f"token id {top}, where the model's table ends at {top - 1}"):
        api.prune(str(data), model=enlarged, max_steps=1, output=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_padding_without_a_row_does_too(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    # What the usual advice for GPT-2 does, where its second half is forgotten.
    folder = tmp_path / "padded"
    shutil.copytree(pico("gpt2"), folder)
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"token id .*resize_token_embeddings"):
        api.prune(str(sentiment.csv), model=str(folder), max_steps=1, output=tmp_path / "results")


def test_texts_that_only_predict_sees_are_checked_there(enlarged: str, sentiment: Any, tmp_path: Path) -> None:
    run = api.prune(str(sentiment.csv), model=enlarged, max_steps=1, sparsity=0.5, output=tmp_path / "results")
    ready = api.load(run.path)
    assert "label" in ready.predict(["a good film"])[0]
    with pytest.raises(UserError, match="table ends at"):
        ready.predict(["a good film", "a good <user>"])
    # 128 tokens by the run's settings, 40 by the model's positions.
    assert "label" in ready.predict(["film " * 38])[0]
    with pytest.raises(UserError, match="texts of up to 41 tokens, where the model takes 40; shorten them"):
        ready.predict(["film " * 39])
    for format in ("mask", "hf", "compact", "onnx"):
        other = api.load(api.export(run.path, format, output=tmp_path / format).path)
        assert isinstance(other, Ready)
        for text, message in (("film " * 39, "up to 41 tokens"), ("a <user>", "table ends at")):
            with pytest.raises(UserError, match=message):
                other.predict([text])
