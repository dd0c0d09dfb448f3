"""How texts are read: special tokens in them against pieces worked out by hand, places against stock models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.reading import held_in_every, last_tokens, read_specials, remark

# -- where a decoder is read ---------------------------------------------------------------------------------

PADDING = 1
# Texts of 3 and 5 tokens, one with the padding token inside, one that ends in it, one of nothing else.
IDS = [[5, 6, 7, 1, 1], [5, 6, 7, 8, 9], [5, 1, 7, 1, 1], [5, 6, 1, 1, 1], [1, 1, 1, 1, 1]]
PLACES = [2, 4, 2, 1, 0]
TINY = {"vocab_size": 20, "pad_token_id": PADDING, "num_labels": 2}
DECODERS = {
    "gpt2": lambda: hf.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=8, **TINY),
    "llama": lambda: hf.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, **TINY
    ),
    "bloom": lambda: hf.BloomConfig(hidden_size=16, n_layer=1, n_head=2, **TINY),
    "gpt_neox": lambda: hf.GPTNeoXConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, **TINY
    ),
}


def test_the_last_token_is_the_rightmost_that_is_not_padding() -> None:
    assert last_tokens(torch.tensor(IDS), PADDING).tolist() == PLACES


@pytest.mark.parametrize("name", DECODERS)
def test_stock_classes_read_the_same_token(name: str) -> None:
    torch.manual_seed(0)
    model = hf.AutoModelForSequenceClassification.from_config(DECODERS[name]()).eval()
    inputs = {"input_ids": torch.tensor(IDS), "attention_mask": torch.ones(5, 5, dtype=torch.long)}
    with torch.no_grad():
        hidden = model.base_model(**inputs).last_hidden_state
        by_hand = model.score(hidden[torch.arange(5), torch.tensor(PLACES)])
        torch.testing.assert_close(model(**inputs).logits, by_hand)


# -- what is held on purpose ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "held"),
    [
        (["a [MASK] b", "it was [MASK] ."], ["[MASK]"]),
        (["a [MASK] b", "it was good"], []),
        # Where would it be read?
        (["a [MASK] b", "[MASK] or [MASK]"], []),
        (["a [SEP] b [SEP] c", "a [SEP] b"], ["[SEP]"]),
        (["[SEP] [MASK]", "[MASK] [SEP]"], ["[SEP]", "[MASK]"]),
        (["a [mask] b", "it was [mask] ."], []),
        (["a film", "[SEP]"], []),
    ],
)
def test_special_tokens_that_each_text_holds(pico: Any, texts: list[str], held: list[str]) -> None:
    tokenizer = load_tokenizer(str(pico("bert")))
    assert sorted(held_in_every(tokenizer, texts)) == sorted(held)
    read_specials(tokenizer, held_in_every(tokenizer, texts))
    assert tokenizer.split_special_tokens is (not held)


def test_what_is_said_of_them(pico: Any) -> None:
    tokenizer = load_tokenizer(str(pico("bert")))
    assert remark(tokenizer, ["a film", "good"], [], False) is None
    said = remark(tokenizer, ["a [SEP] film", "good", "[PAD] [SEP]"], [], False)
    assert said is not None and said.startswith("2 of 3 training texts hold [SEP], [PAD], special tokens")
    said = remark(tokenizer, ["it was [MASK]"], ["[MASK]"], True)
    assert said is not None and "each training text holds [MASK]" in said and "read at [MASK]" in said


def test_a_run_that_is_older_changes_nothing(pico: Any) -> None:
    tokenizer = load_tokenizer(str(pico("bert")))
    read_specials(tokenizer, None)
    assert tokenizer("a [SEP] film").tokens() == ["[CLS]", "a", "[SEP]", "film", "[SEP]"]


# -- what tokenizers make of them ----------------------------------------------------------------------------

LETTERS = [(letter, -5.0) for letter in "▁ab<>[]/smkpdSEPMAK"]


def unigram(name: str) -> Any:
    """A tokenizer of a stock class whose lattice holds special tokens as pieces, as the checkpoints' do."""
    pieces = [("▁a", -4.0), ("▁b", -4.0), *LETTERS]
    if name == "xlm-roberta":
        special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
        return hf.XLMRobertaTokenizer(vocab=[*special, *pieces, ("<mask>", 0.0)])
    special = [(token, 0.0) for token in ("[PAD]", "[CLS]", "[SEP]", "[UNK]")]
    return hf.DebertaV2Tokenizer(vocab=[*special, *pieces, ("[MASK]", 0.0)])


def of_words() -> Any:
    """Words at white space alone, special tokens among them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "PAD", "CLS", "SEP", "MASK")}
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def saved(name: str, folder: Path, pico: Any) -> Path:
    if name in ("bert", "roberta", "gpt2"):
        return Path(pico(name))
    tokenizer = of_words() if name == "words" else unigram(name)
    tokenizer.save_pretrained(folder)
    if name != "words":
        (folder / "config.json").write_text(json.dumps({"model_type": name}))
    return folder


CASES = [
    ("bert", "a [MASK] film [SEP] good", "[CLS] a [UNK] [UNK] [UNK] film [UNK] [UNK] [UNK] good [SEP]"),
    # These two know the bytes of letters alone, and "as" from "was".
    ("roberta", "<mask>", "<s> m as k </s>"),
    ("gpt2", "</s>", "s"),
    ("xlm-roberta", "a </s> b", "<s> ▁a ▁ < ▁ / s > ▁b </s>"),
    ("xlm-roberta", "a<mask>b", "<s> ▁a < ▁ m a s k > b </s>"),
    ("deberta-v2", "a [SEP] b", "[CLS] ▁a ▁ [ ▁ S E P ] ▁b [SEP]"),
    ("words", "a [SEP] b", "[CLS] a [UNK] [UNK] b [SEP]"),
]


@pytest.mark.parametrize(("name", "text", "tokens"), CASES, ids=[f"{case[0]} {case[1]}" for case in CASES])
def test_special_tokens_in_a_text_are_characters(
    pico: Any, tmp_path: Path, name: str, text: str, tokens: str
) -> None:
    folder = saved(name, tmp_path / "stock", pico)
    tokenizer = load_tokenizer(folder)
    plain = tokenizer("a b").tokens()
    read_specials(tokenizer, [])
    assert tokenizer(text).tokens() == tokens.split()
    # Other texts stay as they were.
    assert tokenizer("a b").tokens() == plain
    # It keeps that: as smp loads it again, and as transformers does alone.
    tokenizer.save_pretrained(tmp_path / "saved")
    if (folder / "config.json").exists():
        (tmp_path / "saved" / "config.json").write_text((folder / "config.json").read_text())
    again = hf.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(text).tokens() == tokens.split() and again.model_input_names == tokenizer.model_input_names
    twice = load_tokenizer(tmp_path / "saved")
    read_specials(twice, [])
    assert twice(text).tokens() == tokens.split() and twice("a b").tokens() == plain


def test_what_a_normalizer_makes_of_a_text_is_no_special_token_either() -> None:
    from tokenizers import normalizers

    tokenizer = unigram("xlm-roberta")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    read_specials(tokenizer, [])
    assert tokenizer.eos_token_id not in tokenizer("a \uff1c/s\uff1e b", add_special_tokens=False)["input_ids"]


def test_places_are_those_of_the_text_as_it_was() -> None:
    tokenizer = unigram("xlm-roberta")
    read_specials(tokenizer, [])
    text = "a </s> b"
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    start, end = found["offset_mapping"][-1]
    assert text[start:end].strip() == "b" and end == len(text)
