"""A contender in a process of its own: shapes come on standard input, seconds and memory go out, as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.bench.memory import peak_memory
from smpcli.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    # Token ids and masks, each (batch, length), by name -> logits.
    Runner = Callable[[Mapping[str, Tensor]], Tensor]

# Untimed runs of a shape before its first timed one: libraries choose kernels and buffers in them.
WARM_UP = 2


def main() -> None:
    """One JSON object a line: {"kind", "path", "threads"} first, then {"batch", "length"} until the input ends."""
    # Whatever a library prints must not get between our lines.
    answers, sys.stdout = sys.stdout, sys.stderr
    asked = json.loads(sys.stdin.readline())
    import torch

    torch.set_num_threads(asked["threads"])
    _import(asked["kind"])
    before = peak_memory()
    run = _load(asked["kind"], asked["path"], asked["threads"])
    print(json.dumps({"ready": True}), file=answers, flush=True)
    seen: dict[tuple[int, int], dict[str, Tensor]] = {}
    for line in sys.stdin:
        shape = json.loads(line)
        key = shape["batch"], shape["length"]
        if key not in seen:
            seen[key] = _inputs(*key)
            for _ in range(WARM_UP):
                run(seen[key])
        start = time.perf_counter()
        run(seen[key])
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "memory": peak_memory() - before}), file=answers, flush=True)


def _import(kind: str) -> None:
    """Libraries aren't part of a model's memory: they come before it is measured."""
    if kind in ("onnx", "graph"):
        import onnxruntime  # noqa: F401
    if kind == "stock":
        import transformers  # noqa: F401
    else:
        import_module(f"smpcli.export.{'onnx' if kind == 'graph' else kind}")


def _load(kind: str, path: str, threads: int) -> Runner:
    """kind: "stock" (a folder of transformers), "graph" (an ONNX file), or an export's format."""
    import torch

    if kind == "stock":
        return _load_stock(path)
    if kind == "graph":
        from smpcli.export.onnx import GraphModel

        model: torch.nn.Module = GraphModel(Path(path), threads)
    else:
        model = import_module(f"smpcli.export.{kind}").load_model(Path(path))

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(**inputs)
        return logits

    return run


def _load_stock(path: str) -> Runner:
    """A stock sequence classifier as transformers runs it, attention of its own choice."""
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        path, trust_remote_code=False, use_safetensors=True
    ).eval()

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            logits: Tensor = model(**given).logits
        return logits

    return run


def _inputs(batch: int, length: int) -> dict[str, Tensor]:
    """Random words without padding."""
    import torch

    ids = torch.randint(5, 30, (batch, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
