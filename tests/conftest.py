"""Shared by all tests: pico models of many architectures, and generated sentiment data. Nothing is downloaded."""

from __future__ import annotations

import os

# Before anything imports the hub's library: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Pico matrices are slower on several threads than on one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Before anything imports Triton: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples every time, and no timing: a test fails for what it tests alone.
settings.register_profile("smp", derandomize=True, deadline=None, database=None)
settings.load_profile("smp")

POSITIVE = "good great fine lovely superb moving clever warm funny bright brilliant delightful".split()
NEGATIVE = "bad terrible dull boring awful weak silly cold flat dreary clumsy tedious".split()
NEUTRAL = (
    "the a this that film movie story plot actor scene ending script music camera and of with in it was is its for "
    "an after before who which one two some director role cast screen minute hour".split()
)
LABEL_WORDS = "Yes No Maybe correct incorrect".split()
# "extraordinary" is a word of two pieces for WordPiece; "unseen" is unknown to it.
WORDS = [*POSITIVE, *NEGATIVE, *NEUTRAL, *LABEL_WORDS]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

HIDDEN, INNER, HEADS = 32, 48, 2
LAYERS = {"bert": 2, "bert-mlm": 2, "roberta": 3, "distilbert": 2, "electra": 2, "mpnet": 2}
LAYERS |= {"albert": 3, "deberta-v2": 2, "deberta-v3": 2, "modernbert": 2, "gpt2": 2, "llama": 2}


@pytest.fixture(autouse=True)
def no_surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the person's data folder, cache or width of terminal."""
    monkeypatch.delenv("SMP_DATA_DIR", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("SMP_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


def _wordpiece(segments: bool) -> Any:
    """A BERT-like tokenizer that keeps upper and lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = [*SPECIAL, *WORDS, "extra", "##ordinary", "."]
    ids = {word: index for index, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("UNK", "PAD", "CLS", "SEP", "MASK")}
    inputs = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=inputs, **names)


def _byte_level(decoder: bool = False) -> Any:
    """A RoBERTa-like tokenizer: byte-level BPE, so that a word inside a sentence carries its leading space.

    decoder: like GPT-2's, with nothing around a text, no mask and no padding token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word}" for word in WORDS], trainer)
    if decoder:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
    )


def _model(name: str, vocabulary: int) -> Any:
    import transformers as hf

    # Wide enough that a random encoder passes on what it reads.
    common = {"vocab_size": vocabulary, "initializer_range": 0.15}
    stock = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS[name],
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": 40,
        **common,
    }
    if name == "bert":
        return hf.BertModel(hf.BertConfig(**stock))
    if name == "bert-mlm":
        return hf.BertForMaskedLM(hf.BertConfig(**stock))
    if name == "roberta":
        return hf.RobertaForMaskedLM(hf.RobertaConfig(type_vocab_size=1, **stock))
    if name == "electra":
        return hf.ElectraForMaskedLM(hf.ElectraConfig(embedding_size=16, **stock))
    if name == "mpnet":
        return hf.MPNetForMaskedLM(hf.MPNetConfig(pad_token_id=0, bos_token_id=2, eos_token_id=3, **stock))
    if name == "albert":
        return hf.AlbertForMaskedLM(hf.AlbertConfig(embedding_size=16, **stock))
    if name.startswith("deberta"):
        relative = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
        kinds: dict[str, dict[str, Any]] = {
            # As in the checkpoints: v2 has a convolution beside the blocks, v3 shares keys and knows no segments.
            "deberta-v2": {"conv_kernel_size": 3, "conv_act": "gelu", "norm_rel_ebd": "layer_norm"},
            "deberta-v3": {"share_att_key": True, "position_biased_input": False, "type_vocab_size": 0},
        }
        return hf.DebertaV2ForMaskedLM(hf.DebertaV2Config(**stock | relative | kinds[name]))
    if name == "modernbert":
        special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
        return hf.ModernBertForMaskedLM(hf.ModernBertConfig(local_attention=8, **stock | special))
    if name == "gpt2":
        ends = {"bos_token_id": 2, "eos_token_id": 2}
        return hf.GPT2LMHeadModel(
            hf.GPT2Config(
                n_embd=HIDDEN, n_layer=LAYERS[name], n_head=HEADS, n_inner=INNER, n_positions=40, **common, **ends
            )
        )
    if name == "llama":
        # Fewer heads of keys and values than of queries, as the larger ones have.
        return hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=1, bos_token_id=2, eos_token_id=2, **stock))
    return hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(
            dim=HIDDEN,
            n_layers=LAYERS[name],
            n_heads=HEADS,
            hidden_dim=INNER,
            max_position_embeddings=40,
            **common,
        )
    )


@pytest.fixture(scope="session")
def pico(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """pico("bert") is the folder of a model of two or three blocks, 32 wide, with its tokenizer; the same every time.

    "bert" has no language-model head; all others (see LAYERS) have one, "gpt2" and "llama" a decoder's.
    """
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            import torch
            from transformers.utils import logging

            logging.disable_progress_bar()
            folder = tmp_path_factory.mktemp("models") / name
            segments = name.startswith("bert") or name in ("electra", "albert", "deberta-v2")
            decoder = name in ("gpt2", "llama")
            tokenizer = _byte_level(decoder) if decoder or name == "roberta" else _wordpiece(segments)
            with torch.random.fork_rng():
                torch.manual_seed(3)
                model = _model(name, len(tokenizer))
                # Fresh biases and norms are 0 and 1: a mix-up of theirs would go unseen.
                for parameter in model.parameters():
                    if parameter.ndim == 1:
                        parameter.data += 0.05 * torch.randn_like(parameter)
                model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[name] = folder
        return made[name]

    return get


@dataclass(frozen=True)
class Sentiment:
    """One set of generated sentences in many files. rows: (text, label)."""

    rows: list[tuple[str, str]]
    csv: Path
    tsv: Path
    jsonl: Path
    #: A task YAML over the csv that names label words.
    words: Path
    #: The same sentences with a number to regress on.
    scores: Path


def sentence(draw: random.Random, label: str) -> str:
    """Neutral words with one to three words of the label among them."""
    words = draw.choices(NEUTRAL, k=draw.randint(2, 14))
    for word in draw.choices(POSITIVE if label == "positive" else NEGATIVE, k=draw.randint(1, 3)):
        words.insert(draw.randint(0, len(words)), word)
    return " ".join(words)


@pytest.fixture(scope="session")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Sentiment:
    draw = random.Random(7)
    folder = tmp_path_factory.mktemp("sentiment")
    rows = [(sentence(draw, label), label) for label in ("positive", "negative") * 130]
    found = Sentiment(
        rows,
        csv=folder / "sentiment.csv",
        tsv=folder / "sentiment.tsv",
        jsonl=folder / "sentiment.jsonl",
        words=folder / "worded.yaml",
        scores=folder / "scores.csv",
    )
    with found.csv.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    found.tsv.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    found.jsonl.write_text(
        "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows), encoding="utf-8"
    )
    found.words.write_text(
        "title: generated sentiment\n"
        "kind: classification\n"
        "text: text\n"
        "label: label\n"
        "labels: [negative, positive]\n"
        "words: {negative: terrible, positive: great}\n"
        "metrics: [accuracy]\n"
        "source: {file: sentiment.csv}\n",
        encoding="utf-8",
    )
    with found.scores.open("w", newline="", encoding="utf-8") as file:
        scored = [
            (text, sum(word in POSITIVE for word in text.split()) - sum(word in NEGATIVE for word in text.split()))
            for text, _ in rows
        ]
        csv.writer(file).writerows([("text", "score"), *((text, f"{score + 0.5}") for text, score in scored)])
    return found


@pytest.fixture(scope="session")
def quiz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SQuAD's format: 30 contexts of 12 to 45 words, of each the good and the bad words are asked for."""
    draw = random.Random(11)
    articles = []
    for number in range(30):
        words = draw.choices(NEUTRAL, k=draw.randint(10, 40))
        good, bad = (" ".join(draw.choices(kind, k=draw.randint(1, 3))) for kind in (POSITIVE, NEGATIVE))
        first, second = sorted(draw.sample(range(len(words)), 2))
        context = " ".join([*words[:first], good, *words[first:second], bad, *words[second:]]) + "."
        asked = [
            {"id": f"{number}-{name}", "question": f"which one is {name}", "answers": [_marked(context, answer)]}
            for name, answer in (("good", good), ("bad", bad))
        ]
        articles.append({"title": f"t{number}", "paragraphs": [{"context": context, "qas": asked}]})
    path = tmp_path_factory.mktemp("quiz") / "quiz.json"
    path.write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    return path


def _marked(context: str, answer: str) -> dict[str, Any]:
    # No positive or negative word is neutral, so what is found first is what was put there.
    return {"text": answer, "answer_start": context.index(answer)}
