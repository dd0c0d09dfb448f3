"""A stock Hugging Face folder: `AutoModel…from_pretrained` loads it without smp, zeros in place."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from smpcli.export.formats import CHECKED_EXAMPLES, Exported, check_difference
from smpcli.files import cannot_write
from smpcli.training.recompute import Reopened

SUFFIX = "-hf"

# Run in a new process that can't import smp: only transformers and the folder.
_CHECK = """
import json, sys, torch, transformers
from safetensors.torch import load_file, save_file
folder, task = sys.argv[1], json.loads(sys.argv[2])
auto_class = getattr(transformers, task["auto_class"])
model = auto_class.from_pretrained(folder, trust_remote_code=False, use_safetensors=True).eval()
logits = []
with torch.no_grad():
    for index in range(task["batches"]):
        inputs = load_file(f"{task['scratch']}/{index}.safetensors")
        found = model(**inputs)
        out = None if "start_logits" in found else found.logits
        if task["span"]:
            words = task["words"]
            out = out[..., words].transpose(1, 2) if words else torch.stack([found.start_logits, found.end_logits], 1)
        elif task["words"]:
            rows = torch.arange(len(out))
            ids = inputs["input_ids"]
            where = (ids == task["mask_id"]).int().argmax(1) if task["mask_id"] is not None else 0 * ids[:, 0]
            where = inputs["attention_mask"].sum(1) - 1 if task["last"] else where
            out = out[rows, where][:, task["words"]]
        logits.append(out.float().flatten())
save_file({"logits": torch.cat(logits)}, f"{task['scratch']}/logits.safetensors")
"""


def write(run: Reopened, target: Path) -> Exported:
    """Write the folder, reload it in a new process by transformers alone, compare logits, put it in place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        folder = scratch / "model"
        _save(run, folder)
        difference, examples = _verify(run, folder, scratch)
        if target.exists():
            shutil.rmtree(target)
        folder.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return Exported(target, "hf", size, difference, examples)


def _save(run: Reopened, folder: Path) -> None:
    if run.model.word_ids is not None:
        # A masked-LM class has no place for labels of its own: they travel in the configuration.
        words = run.tokenizer.convert_ids_to_tokens(run.model.word_ids)
        run.model.config.smp_label_words = dict(zip(run.labels or run.settings.task.outputs, words, strict=True))
    # Never pass on what a stranger's configuration says of code to run.
    for part in (run.model.config, run.tokenizer):
        if getattr(part, "auto_map", None):
            del part.auto_map
    run.tokenizer.init_kwargs.pop("auto_map", None)
    run.model.backbone.save_pretrained(folder)
    run.tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def _auto_class(run: Reopened, stock: str) -> str:
    if run.model.word_ids is None:
        return f"AutoModelFor{stock}"
    return "AutoModelForCausalLM" if run.model.last else "AutoModelForMaskedLM"


def _verify(run: Reopened, folder: Path, scratch: Path) -> tuple[float, int]:
    """Largest difference of logits between the run's model and the folder, over some dev examples."""
    dev = next(iter(run.dev.values()))
    span = run.settings.task.kind == "span"
    indices = list(range(min(CHECKED_EXAMPLES, len(dev))))
    # A stock masked-LM class gives every token of a span task the whole vocabulary: large.
    size = 4 if span else 32
    batches = [dev.collate(indices[start : start + size])[0] for start in range(0, len(indices), size)]
    expected: list[Tensor] = []
    with torch.no_grad():
        for index, inputs in enumerate(batches):
            expected.append(run.model(**inputs).float().flatten())
            save_file(inputs, scratch / f"{index}.safetensors")
    words = run.model.word_ids
    stock = "QuestionAnswering" if span else "SequenceClassification"
    task = {
        "auto_class": _auto_class(run, stock),
        "span": span,
        "batches": len(batches),
        "scratch": str(scratch),
        "words": words,
        "mask_id": run.model.mask_id,
        "last": run.model.last,
    }
    # -I: neither the current folder nor PYTHONPATH, so the check sees what a stranger's process sees.
    done = subprocess.run(
        [sys.executable, "-I", "-c", _CHECK, str(folder), json.dumps(task)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the exported folder doesn't load with transformers alone:\n{done.stderr}")
    found = load_file(scratch / "logits.safetensors")["logits"]
    wanted = torch.cat(expected)
    difference = float((found - wanted).abs().max())
    check_difference(difference, float(wanted.abs().max()))
    return difference, len(indices)
