"""Size and loading time of the mask format against entropy and packed bits.

    OMP_NUM_THREADS=1 python benchmarks/mask_format.py [RUN …] [--output mask_format.json]

Without runs: independent random masks of BERT-base's 72 matrices (85 million weights) at 3, 10 and 50 % remaining.
The entropy is that of each matrix taken alone, sum of n * H(kept / n): what independent bits of its density need.
Learned masks may need less, as their rows and columns differ in density. Loading is reading and decoding the file,
in seconds of this process's CPU time.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smpcli.runs.maskfile import compress, read_described, write_described
from smpcli.runs.rundir import RunDir

BERT_BASE = {
    f"encoder.layer.{layer}.{kind}": shape
    for layer in range(12)
    for kind, shape in (
        *((f"attention.{name}", (768, 768)) for name in ("self.query", "self.key", "self.value", "output.dense")),
        ("intermediate.dense", (3072, 768)),
        ("output.dense", (768, 3072)),
    )
}


def entropy(masks: dict[str, Tensor]) -> float:
    """Bytes: the sum over matrices of n * H(kept / n) / 8."""
    total = 0.0
    for mask in masks.values():
        share = float(mask.double().mean())
        if 0 < share < 1:
            total -= mask.numel() * (share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 8
    return total


def measure(name: str, masks: dict[str, Tensor], folder: Path) -> dict[str, Any]:
    path = folder / "mask.smpmask"
    started = time.process_time()
    payloads, shapes, codes = compress(masks)
    write_described(path, payloads, {"format": "f", "version": 1, "shapes": shapes, "codes": codes})
    writing, started = time.process_time() - started, time.process_time()
    found, _, _ = read_described(path, "f", 1)
    loading = time.process_time() - started
    assert all(torch.equal(found[key], masks[key]) for key in masks)
    size = sum(mask.numel() for mask in masks.values())
    return {
        "name": name,
        "remaining": sum(int(mask.sum()) for mask in masks.values()) / size,
        "packed_bytes": size // 8,
        "entropy_bytes": round(entropy(masks)),
        "file_bytes": path.stat().st_size,
        "writing_s": writing,
        "loading_s": loading,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'masks':38} remaining  packed bits      entropy         file  of entropy  load s")
    with tempfile.TemporaryDirectory() as folder:
        for source in options.runs or (0.03, 0.1, 0.5):
            if isinstance(source, Path):
                masks = RunDir.open(source).read_masks()
                name = source.name
            else:
                torch.manual_seed(0)
                masks = {key: torch.rand(shape) < source for key, shape in BERT_BASE.items()}
                name = "independent, BERT-base"
            row = measure(name, masks, Path(folder))
            rows.append(row)
            print(
                f"{name:38} {row['remaining']:8.1%} {row['packed_bytes']:12,} {row['entropy_bytes']:12,} "
                f"{row['file_bytes']:12,} {row['file_bytes'] / row['entropy_bytes']:10.3f} x {row['loading_s']:7.3f}",
                flush=True,
            )
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
