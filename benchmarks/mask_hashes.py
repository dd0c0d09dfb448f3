"""Prints a hash of mask.safetensors for every built-in method at two sparsities, and for a run that was resumed.

A change that must leave results as they are prints the same lines before and after:

    python benchmarks/mask_hashes.py > before.txt    # in the old checkout, then in the new one
    python benchmarks/mask_hashes.py | diff before.txt -

On a CPU, in seconds: a BERT of 2 layers x 32 with random weights, 200 generated sentences, 12 steps.
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch

GOOD, BAD = "good great lovely warm funny".split(), "bad dull boring weak cold".split()
FILLER = "the a this film movie story plot actor of with in it was is its".split()
METHODS = ("smp", "movement", "soft-movement", "l0", "magnitude")
SPARSITIES = (0.5, 0.9)
STEPS, BROKEN_AFTER = 12, 7


def make_model(folder: Path) -> None:
    """A BERT with random weights and a WordPiece tokenizer, saved to `folder`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *GOOD, *BAD, *FILLER])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        initializer_range=0.15,
    )
    BertForSequenceClassification(config).save_pretrained(folder)


def make_data(path: Path) -> None:
    """200 sentences with one word each that tells the label."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for number in range(200):
            words = [draw.choice(FILLER) for _ in range(draw.randint(3, 12))]
            words.insert(draw.randrange(len(words)), draw.choice((BAD, GOOD)[number % 2]))
            rows.writerow([" ".join(words), ("negative", "positive")[number % 2]])


class Interrupting:
    """Sends Ctrl-C to this process after a step."""

    def phase(self, name: str) -> None: ...

    def step(self, step: Any) -> None:
        if step.step == BROKEN_AFTER:
            os.kill(os.getpid(), signal.SIGINT)


def digest(run: Any) -> str:
    return hashlib.sha256((run.path / "mask.safetensors").read_bytes()).hexdigest()[:16]


def main() -> None:
    from smpcli import prune
    from smpcli.errors import Interrupted

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model")
        make_data(folder / "data.csv")
        given: dict[str, Any] = {"task": str(folder / "data.csv"), "model": str(folder / "model"), "device": "cpu"}
        given |= {"max_steps": STEPS, "batch_size": 16, "precision": "fp32"}
        for method in METHODS:
            for sparsity in SPARSITIES:
                run = prune(method=method, sparsity=sparsity, output=folder / "runs", **given)
                print(f"{method:14} {sparsity:.2f}  {digest(run)}")
        try:
            prune(method="smp", sparsity=0.9, output=folder / "broken", progress=Interrupting(), **given)
        except Interrupted:
            run = prune(method="smp", sparsity=0.9, output=folder / "broken", resume=True, **given)
            print(f"{'smp, resumed':14} {0.9:.2f}  {digest(run)}")
        else:
            sys.exit("the run was not interrupted")


if __name__ == "__main__":
    main()
