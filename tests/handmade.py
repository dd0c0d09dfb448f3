"""Run directories made by hand from plain JSON and YAML, so that no reader is tested against our own writers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def tensor_file(tensors: dict[str, tuple[str, list[int], bytes]], metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file, byte by byte: length of the header, header, data."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata is not None else {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# 20 weights of which the first two are kept: 1100 0000 | 0000 0000 | 0000 (and four bits of padding).
MASK = tensor_file(
    {"block.0.query": ("U8", [3], b"\xc0\x00\x00")},
    {"smp": json.dumps({"format": "smp-mask", "version": 1, "shapes": {"block.0.query": [4, 5]}})},
)


def plain_result(**changes: Any) -> dict[str, Any]:
    """A result.json as the docs describe it; `changes` go by dotted keys with __ for the dot."""
    result: dict[str, Any] = {
        "schema": 1,
        "run": {
            "id": "run",
            "method": "smp",
            "task": "sst2",
            "model": "minilm",
            "sparsity": 0.9,
            "remaining": 0.1,
            "seed": 0,
            "settings_digest": "0123456789ab",
            "command": "smp prune --method smp --task sst2 --sparsity 0.9",
            "started": "2025-03-01T12:00:00+00:00",
            "seconds": 300.0,
        },
        "metric": "accuracy",
        "metrics": {"accuracy": 0.86, "f1": 0.85},
        "weights": {"total": 50, "prunable": 20, "kept": 2, "trained": 0},
        "task_bytes": 1_331_200,
        "files": {"mask.safetensors": len(MASK)},
        "method": {"report": {"tau": 0.1}},
        "data": {
            "digest": "d" * 64,
            "origin": "folder SST-2",
            "train": 67349,
            "dev": {"dev": 872},
            "dev_digests": {"dev": "e" * 64},
            "files": {"/data/my.csv": {"bytes": 10, "sha256": "f" * 64}},
            "cut": {
                "dev": {"unit": "texts", "length": 128, "examples": 872, "cut": 3, "tokens": 21000, "lost": 40},
            },
            "special_tokens": [],
            "columns": {"text": "sentence", "pair": None, "label": "label"},
            "kind": "classification",
            "labels": {"train": {"no": 29780, "yes": 37569}, "dev": {"dev": {"no": 428, "yes": 444}}},
            "left_out": {},
            "overlap": {"dev": 0},
        },
        "model": {"name": "minilm", "digest": "m" * 64, "head": "prototype"},
        "training": {
            "steps": 1000,
            "batch_size": 32,
            "seconds_per_step": 0.3,
            "metric_history": [[500, 0.81], [1000, 0.86]],
        },
        "warnings": [],
        "environment": {
            "smp": "0.1.0",
            "python": "3.11.7",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "platform": "Linux-x86_64",
            "device": "cpu",
            "processes": 1,
            "threads": 2,
        },
    }
    for name, value in changes.items():
        *path, last = name.split("__")
        block = result
        for key in path:
            block = block[key]
        block[last] = value
    return result


MakeRun = Callable[..., Path]


def make_run(folder: Path, settings: dict[str, Any] | None = None, **changes: Any) -> Path:
    """make_run(folder, settings={...}, run__seed=1, …) writes a finished run and returns its folder."""
    result = plain_result(**changes)
    if result["run"]["method"] == "dense" and "run__sparsity" not in changes:
        result["run"].update(sparsity=0.0, remaining=1.0)
        result["weights"].update(kept=20, trained=50)
        result["files"] = {}
    folder.mkdir(parents=True)
    run = result["run"]
    given = {"task": run["task"], "method": run["method"], "sparsity": run["sparsity"], "seed": run["seed"]}
    (folder / "settings.yaml").write_text(yaml.safe_dump({**given, **(settings or {})}))
    if "mask.safetensors" in result["files"]:
        (folder / "mask.safetensors").write_bytes(MASK)
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def short(value: object) -> str:
    """A parameter's part of a test's name: some of them are files of 100,000 characters."""
    return value if isinstance(value, str) and len(value) < 40 else type(value).__name__
