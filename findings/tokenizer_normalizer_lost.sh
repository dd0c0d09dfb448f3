#!/usr/bin/env bash
# A tokenizer of transformers 5 that is saved and loaded again reads the same text as other tokens.
#
# Versions: transformers 5.24.0, tokenizers 0.23.3, numpy 2.4.6 (no torch needed).
#
# Behaviour: an XLM-R tokenizer has the normalizer Lowercase. save_pretrained writes it into tokenizer.json, and the
# package tokenizers reads that file as it was meant. XLMRobertaTokenizer.from_pretrained and
# AutoTokenizer.from_pretrained of the same folder drop it: "HELLO" becomes another id. With TokenizersBackend as
# "tokenizer_class" in tokenizer_config.json, AutoTokenizer keeps it.
#
# Why it surprises: tokenizer.json is the whole pipeline of a tokenizer, and saving and loading is taken to change
# nothing. The class takes the vocabulary out of the file and builds a pipeline of its own around it, in silence. A
# model that was trained with the tokenizer in memory gets other tokens from the one on disk, and which ones depends
# on the library that reads it.
#
# Output seen:
#   before it is saved                [0, 4, 2]
#   tokenizers, from tokenizer.json   [0, 4, 2]
#   XLMRobertaTokenizer               [0, 5, 2] normalizer None
#   AutoTokenizer                     [0, 5, 2] normalizer None
#   AutoTokenizer, TokenizersBackend  [0, 4, 2] normalizer Lowercase()
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q transformers==5.24.0 tokenizers==0.23.3 numpy==2.4.6
HF_HUB_OFFLINE=1 venv/bin/python -I - <<'PY'
import json
from pathlib import Path

from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, XLMRobertaTokenizer

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "▁hello", "▁HELLO", "<mask>"]
found = {}


def read(name, tokenizer):
    found[name] = tokenizer("HELLO").input_ids
    print(f"{name:<33} {found[name]} normalizer {tokenizer.backend_tokenizer.normalizer}")


made = XLMRobertaTokenizer(vocab=[(word, -1.0) for word in WORDS])
made.backend_tokenizer.normalizer = normalizers.Lowercase()
found["before it is saved"] = made("HELLO").input_ids
print(f"{'before it is saved':<33} {found['before it is saved']}")
made.save_pretrained("saved")

name = "tokenizers, from tokenizer.json"
found[name] = Tokenizer.from_file("saved/tokenizer.json").encode("HELLO").ids
print(f"{name:<33} {found[name]}")
read("XLMRobertaTokenizer", XLMRobertaTokenizer.from_pretrained("saved"))
read("AutoTokenizer", AutoTokenizer.from_pretrained("saved"))
config = Path("saved/tokenizer_config.json")
config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "TokenizersBackend"}))
read("AutoTokenizer, TokenizersBackend", AutoTokenizer.from_pretrained("saved"))

lower, upper = [0, 4, 2], [0, 5, 2]
assert list(found.values()) == [lower, lower, upper, upper, lower], f"changed: {found}"
PY
