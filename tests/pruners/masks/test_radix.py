"""The selection's GPU kernels: interpreted on a CPU they choose what torch's operations do; they compile for GPUs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pruners.masks import radix
from pruners.masks.selection import RowTopK, top_k_mask
from pruners.masks.stack import row_rule

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a row has several, the last one not whole."""
    monkeypatch.setattr(radix, "BLOCK", 32)
    monkeypatch.setattr(radix, "PARTS", 2)


def drawn(kind: str) -> Tensor:
    rows = torch.randn(2, 150, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    if kind == "ties":
        return (rows * 2).round() / 2
    if kind == "zeros":
        return torch.where(rows > 0, 0.0, -0.0)
    if kind == "extremes":
        rows[rows > 1] = math.inf
        rows[(rows < 1) & (rows > 0.5)] = torch.finfo(torch.float32).max
        rows[rows.abs() < 0.3] *= 1e-44
    return rows


@pytest.mark.parametrize(("kind", "kept"), [("ties", (0, 90)), ("zeros", (150, 75)), ("extremes", (1, 149))])
def test_each_row_keeps_its_highest(kind: str, kept: tuple[int, int]) -> None:
    rows = drawn(kind)
    mask = radix.RadixTopK(2, 150, DEVICE).mask(rows, torch.tensor(kept, dtype=torch.float64, device=DEVICE))
    for row, own, count in zip(rows, mask, kept, strict=True):
        assert torch.equal(own, top_k_mask(row, count))


def test_only_what_is_inside_is_kept_and_a_row_with_a_nan_keeps_nothing() -> None:
    rows = drawn("ties")
    inside = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE) < 0.7
    kept, out = torch.tensor([40, 70], device=DEVICE), torch.ones(2, 150, dtype=torch.bool, device=DEVICE)
    rule = radix.RadixTopK(2, 150, DEVICE)
    assert rule.mask(rows, kept, inside=inside, out=out) is out
    for row, own, part, count in zip(rows, out, inside, kept.tolist(), strict=True):
        expected = torch.zeros_like(part)
        expected[part] = top_k_mask(row[part], count)
        assert torch.equal(own, expected)
    # The same memory serves again; a NaN's sign means nothing.
    rows[1, 149] = -math.nan
    assert rule.mask(rows, kept).sum(1).tolist() == [40, 0]


def test_kernels_are_confirmed_by_what_they_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial, with kernels of which one is right; one has the last of equal numbers, and one doesn't compile."""

    class Kernels:
        def __init__(self, *shape: object) -> None:
            pass

        def mask(self, rows: Tensor, kept: Tensor, inside: Tensor | None = None) -> Tensor:
            most = int(kept.max())
            n, size = rows.shape
            rule = RowTopK(n, size, rows.dtype, rows.device)
            return rule.mask(rows, kept, most - kept, int(kept.min()), most, inside)

    class Backwards(Kernels):
        def mask(self, rows: Tensor, kept: Tensor, inside: Tensor | None = None) -> Tensor:
            return super().mask(rows.flip(1), kept, None if inside is None else inside.flip(1)).flip(1)

    class Broken(Kernels):
        def mask(self, rows: Tensor, kept: Tensor, inside: Tensor | None = None) -> Tensor:
            raise ValueError("PTX version 8.7 does not support target")

    for kernels, right in ((Kernels, True), (Backwards, False), (Broken, False)):
        monkeypatch.setattr(radix, "RadixTopK", kernels)
        assert radix.confirmed.__wrapped__(DEVICE) is right


def test_a_cpu_is_left_to_torch() -> None:
    assert type(row_rule(2, 8, torch.float32, torch.device("cpu"))) is RowTopK


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pruners.masks import radix
types = {"scores": "*fp32", "inside": "*u8", "mask": "*u8", "size": "i32", "shift": "i32"}
fixed = {"HAS_INSIDE": True, "BLOCK": radix.BLOCK, "PARTS": radix.PARTS, "BINS": radix.BINS}
for kernel in (radix._count, radix._choose, radix._ties, radix._write):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in fixed else types.get(name, "*i32") for name in names}
    constants = {(names.index(name),): value for name, value in fixed.items() if name in names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(kernel.__name__, len(compiled.asm["cubin"]) > 0)
"""


def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split() == ["_count", "True", "_choose", "True", "_ties", "True", "_write", "True"], (
        done.stderr
    )
