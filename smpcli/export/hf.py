"""A stock Hugging Face folder with a model card: `AutoModel…from_pretrained` loads it without smp, zeros in place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from smpcli.evaluation.recompute import Reopened
from smpcli.export.about import About, describe, format_of, read_about, write_about
from smpcli.export.card import measure_latency, write_card
from smpcli.export.formats import Exported
from smpcli.export.ready import Ready
from smpcli.export.tokenizer import save_tokenizer
from smpcli.export.verify import size_of, staged, verify
from smpcli.kinds import KINDS
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import rebuild

SUFFIX = "-hf"
FORMAT = "hf"
VERSION = 1

# What smpcli/export/reload.py does, in a process that uses transformers and the folder alone. Its words in capitals
# are filled in by the kind of task.
_CODE = """
import json, sys, torch, transformers
from safetensors.torch import save_file
folder, scratch = sys.argv[1:]
about = json.load(open(f"{folder}/smp.json", encoding="utf-8"))
questions = json.load(open(f"{scratch}/questions.json", encoding="utf-8"))
words, mask = about["word_ids"], about["mask_id"]
model = getattr(transformers, about["stock_class"]).from_pretrained(
    folder, trust_remote_code=False, use_safetensors=True
).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, padding_side="right")
# As the card tells a reader to: the length is the tokenizer's own.
how = {"truncation": True, "return_attention_mask": True}
if about["stride"] is not None:
    how |= {"truncation": "only_second", "stride": about["stride"], "return_overflowing_tokens": True}

def answer(batch):
    inputs = tokenizer.pad({name: [encoded[name][i] for i in batch] for name in names}, return_tensors="pt")
    with torch.no_grad():
        found = model(**inputs)
    if not words:
        return STOCK_LOGITS
    if EVERY_TOKEN:
        return found.logits[..., words].mT
    ids = inputs["input_ids"]
    where = (ids == mask).int().argmax(1) if mask is not None else 0 * ids[:, 0]
    if about["decoder"]:
        # The last token that isn't padding, as the stock classes with a head of their own have it.
        real = inputs["attention_mask"] if about["special_tokens"] is None else ids != tokenizer.pad_token_id
        where = (torch.arange(ids.shape[1]) * real).amax(1)
    return found.logits[torch.arange(len(ids)), where][:, words]

logits = {}
for split, asked in questions.items():
    encoded = tokenizer(asked["texts"], asked["pairs"], **how)
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
    assert len(encoded["input_ids"]) == sum(map(len, asked["batches"]))
    # A language model gives the whole vocabulary at every token: that takes room.
    size = 4 if words else 64
    parts = [answer(batch[i : i + size]).float() for batch in asked["batches"] for i in range(0, len(batch), size)]
    longest = max(part.shape[-1] for part in parts)
    parts = [torch.nn.functional.pad(part, (0, longest - part.shape[-1])) for part in parts]
    logits[split] = torch.cat(parts)
save_file(logits, f"{scratch}/logits.safetensors")
"""


def write(run: Reopened, target: Path) -> Exported:
    """Write the folder, verify it in a new process by transformers alone, put it in place."""
    with staged(target) as fresh:
        about = describe(run, FORMAT, VERSION)
        _save(run, about, fresh)
        kind = {"STOCK_LOGITS": KINDS[about.kind].stock_logits, "EVERY_TOKEN": str(about.traits.every_token)}
        verified = verify(fresh, run, code=re.sub("|".join(kind), lambda name: kind[name[0]], _CODE))
        weights = (fresh / "model.safetensors").stat().st_size
        write_card(run, about, verified, weights, measure_latency(_load_stock(fresh, about)), fresh)
        return Exported(target, "hf", size_of(fresh), verified)


def _load_stock(folder: Path, about: About) -> Any:
    """The folder as transformers loads it by default."""
    import transformers

    stock = getattr(transformers, about.stock_class)
    return stock.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).eval()


def is_one(path: Path) -> bool:
    return path.is_dir() and format_of(path) == FORMAT


def load(path: Path, model: str | None = None) -> Ready:
    """The folder's own model; it needs no base, so `model` changes nothing."""
    about = read_about(path, FORMAT, VERSION)
    tokenizer = load_tokenizer(str(path))
    return Ready.of(about, rebuild(str(path), tokenizer, *about.form, whole=True), tokenizer)


def _save(run: Reopened, about: About, folder: Path) -> None:
    if about.words is not None:
        # A masked-LM class has no place for labels of its own: they travel in the configuration.
        run.model.config.smp_label_words = dict(zip(about.outputs, about.words, strict=True))
    if about.decoder:
        # Its answer is one token's: keys and values would be kept for nobody, and some architectures then fail.
        run.model.config.use_cache = False
    # Never pass on what a stranger's configuration says of code to run.
    if getattr(run.model.config, "auto_map", None):
        del run.model.config.auto_map
    run.model.backbone.save_pretrained(folder)
    save_tokenizer(run, folder)
    write_about(folder, about)
    for path in folder.iterdir():
        path.chmod(0o644)
