"""A stock Hugging Face folder with a model card: `AutoModel…from_pretrained` loads it without smp, zeros in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smpcli.export.about import About, describe, format_of, read_about, write_about
from smpcli.export.card import measure_latency, write_card
from smpcli.export.formats import Exported
from smpcli.export.ready import Ready
from smpcli.export.verify import size_of, staged, verify
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import rebuild
from smpcli.training.recompute import Reopened

SUFFIX = "-hf"
FORMAT = "hf"
VERSION = 1

# What smpcli/export/reload.py does, in a process that uses transformers and the folder alone.
_CODE = """
import json, sys, torch, transformers
from safetensors.torch import save_file
folder, scratch = sys.argv[1:]
about = json.load(open(f"{folder}/smp.json", encoding="utf-8"))
questions = json.load(open(f"{scratch}/questions.json", encoding="utf-8"))
words, mask = about["word_ids"], about["mask_id"]
kind = transformers.AutoModelForMaskedLM if words else transformers.AutoModelForSequenceClassification
model = kind.from_pretrained(folder).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
logits = {split: [] for split in questions}
for split, batches in questions.items():
    for batch in batches:
        texts = [batch["texts"]] if batch["pairs"] is None else [batch["texts"], batch["pairs"]]
        inputs = tokenizer(*texts, padding=True, truncation=True, max_length=about["max_length"], return_tensors="pt")
        with torch.no_grad():
            out = model(**inputs).logits
        if words:
            ids = inputs["input_ids"]
            where = (ids == mask).int().argmax(1) if mask is not None else 0 * ids[:, 0]
            out = out[torch.arange(len(out)), where][:, words]
        logits[split].append(out.float())
save_file({split: torch.cat(parts) for split, parts in logits.items()}, f"{scratch}/logits.safetensors")
"""


def write(run: Reopened, target: Path) -> Exported:
    """Write the folder, verify it in a new process by transformers alone, put it in place."""
    with staged(target) as fresh:
        about = describe(run, FORMAT, VERSION)
        _save(run, about, fresh)
        verified = verify(fresh, run, code=_CODE)
        weights = (fresh / "model.safetensors").stat().st_size
        write_card(run, about, verified, weights, measure_latency(_stock(fresh, about)), fresh)
        return Exported(target, "hf", size_of(fresh), verified)


def _stock(folder: Path, about: About) -> Any:
    """The folder as transformers loads it by default."""
    import transformers

    kind = transformers.AutoModelForMaskedLM if about.word_ids else transformers.AutoModelForSequenceClassification
    return kind.from_pretrained(folder).eval()


def is_one(path: Path) -> bool:
    return path.is_dir() and format_of(path) == FORMAT


def load(path: Path, model: str | None = None) -> Ready:
    """The folder's own model; it needs no base, so `model` changes nothing."""
    about = read_about(path, FORMAT, VERSION)
    name = str(path)
    built = rebuild(name, about.head, about.labels, about.word_ids, about.mask_id)
    return Ready(built, load_tokenizer(name), about.task, about.labels, about.max_length, about.pairs)


def _save(run: Reopened, about: About, folder: Path) -> None:
    if about.words is not None:
        # A masked-LM class has no place for labels of its own: they travel in the configuration.
        run.model.config.smp_label_words = dict(zip(run.labels or ["score"], about.words, strict=True))
    run.model.backbone.save_pretrained(folder)
    run.tokenizer.save_pretrained(folder)
    write_about(folder, about)
    for path in folder.iterdir():
        path.chmod(0o644)
