"""What the peers' scripts share: data, model, the training loop, what is counted and saved. Imports nothing of smp.

Each script is run in its peer's own environment, with the path of a job (JSON, made by benchmarks/peers.py).
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

#: Of the run: at its end the sparsity is reached, and masks stay.
RAMP_END = 0.8
#: Steps from one change of masks to the next, as neural-compressor's examples have it.
EVERY = 3

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class Peer:
    """A library's way to prune, called around the steps of one loop. The default prunes nothing."""

    #: Packages whose versions are told.
    packages: tuple[str, ...] = ()

    def __init__(self, job: dict[str, Any]) -> None:
        self.sparsity: float = job["sparsity"]
        self.steps: int = job["steps"]
        #: The step of the last change, counted from 0.
        self.last = max(1, int(self.steps * RAMP_END) // EVERY) * EVERY

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, example: Batch) -> tuple[nn.Module, Any]:
        """The model and the optimizer to train with."""
        return model, optimizer

    def before_step(self, model: nn.Module, step: int) -> None: ...

    def exports(self, model: Any) -> Iterator[tuple[str, Callable[[Path], Any]]]:
        """Ways to save the trained model, each with its name; after the last one the weights are what they are."""
        yield "save_pretrained", model.save_pretrained

    def ramp(self, step: int) -> float:
        """The sparsity of a step: exponential, as neural-compressor's default."""
        return 1 - float((1 - self.sparsity) ** min(1.0, step / self.last))


def encoder_matrices(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of the encoder, which are what is pruned: no embeddings, no pooler, no classifier."""
    return {name: part for name, part in model.named_modules() if ".encoder." in name and isinstance(part, nn.Linear)}


def kept(model: nn.Module) -> tuple[int, int]:
    """Weights that aren't zero, and all of them."""
    weights = [part.weight for part in encoder_matrices(model).values()]
    return sum(int(weight.count_nonzero()) for weight in weights), sum(weight.numel() for weight in weights)


def batches(tokenizer: Any, rows: list[list[Any]], size: int, length: int, order: random.Random) -> Iterator[Batch]:
    """Batches of shuffled rows without end."""
    while True:
        shuffled = order.sample(rows, len(rows))
        for start in range(0, len(rows) - size + 1, size):
            yield _batch(tokenizer, shuffled[start : start + size], length)


def _batch(tokenizer: Any, rows: list[list[Any]], length: int) -> Batch:
    made = tokenizer(
        [text for text, _ in rows], truncation=True, max_length=length, padding=True, return_tensors="pt"
    )
    return dict(made), torch.tensor([label for _, label in rows])


@torch.no_grad()
def accuracy(model: nn.Module, tokenizer: Any, rows: list[list[Any]], length: int) -> float:
    model.eval()
    right = 0
    for start in range(0, len(rows), 64):
        inputs, labels = _batch(tokenizer, rows[start : start + 64], length)
        right += int((model(**inputs).logits.argmax(-1) == labels).sum())
    return right / len(rows)


def train(peer: Peer, job: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Train, prune, measure and save; what benchmarks/peers.py wants to know."""
    torch.manual_seed(job["seed"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    dropout = {f"{place}_dropout_prob": job["dropout"] for place in ("hidden", "attention_probs")}
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=2, **dropout)
    made = torch.optim.AdamW(model.parameters(), lr=job["lr"], weight_decay=0.0)
    warm = max(1, job["steps"] // 10)
    rows = batches(tokenizer, data["train"], job["batch"], data["max_length"], random.Random(job["seed"]))
    model, optimizer = peer.begin(model, made, next(rows))
    seconds = []
    for step in range(job["steps"]):
        inputs, labels = next(rows)
        started = time.perf_counter()
        for group in made.param_groups:
            group["lr"] = job["lr"] * min((step + 1) / warm, (job["steps"] - step) / max(1, job["steps"] - warm))
        model.train()
        peer.before_step(model, step)
        loss = nn.functional.cross_entropy(model(**inputs).logits, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
    found = accuracy(model, tokenizer, data["dev"], data["max_length"])
    folders = {}
    for number, (name, save) in enumerate(peer.exports(model)):
        folders[name] = str(Path(job["output"]) / f"export-{number}")
        save(Path(folders[name]))
        tokenizer.save_pretrained(folders[name])
    left, prunable = kept(model)
    return {
        "accuracy": found,
        "kept": left,
        "prunable": prunable,
        "seconds_per_step": statistics.median(seconds),
        "exports": folders,
        "versions": {name: version(name) for name in ("torch", "transformers", *peer.packages)},
    }


def main(kind: type[Peer]) -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    data = json.loads(Path(job["data"]).read_text(encoding="utf-8"))
    result = train(kind(job), job, data)
    (Path(job["output"]) / "result.json").write_text(json.dumps(result), encoding="utf-8")
