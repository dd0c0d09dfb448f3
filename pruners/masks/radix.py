"""The highest numbers of each row of a stack by radix selection: Triton kernels, for GPUs that it compiles for.

A float's bits, ordered as the numbers are, are looked at a byte at a time from the top: a histogram of the next byte
says which value the row's threshold has in it. Four reads of the scores find the threshold exactly, however many each
row keeps, where `topk` has to be told the most that any row may keep. Two more count ties and write the mask.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from pruners.masks.selection import RowTopK

# A program computes with so many numbers at a time, so many times: more would make it large, and slow to compile.
BLOCK, PARTS = 1024, 8
BINS = 256


@triton.jit
def _keys(scores, inside, start, places, within, HAS_INSIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Unsigned whole numbers in the order of the floats; -0 is 0, NaN the highest, what isn't inside the lowest."""
    numbers = tl.load(scores + start + places, mask=within, other=0.0)
    bits = numbers.to(tl.int32, bitcast=True)
    bits = tl.where(numbers == 0.0, 0, bits)
    bits = tl.where(numbers != numbers, 0x7FC00000, bits)
    # Negative numbers are ordered backwards.
    bits = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    keys = bits.to(tl.uint32, bitcast=True) ^ 0x80000000
    if HAS_INSIDE:
        keys = tl.where(tl.load(inside + start + places, mask=within, other=0) != 0, keys, 0)
    return keys


@triton.jit
def _count(  # type: ignore[no-untyped-def]
    scores,
    inside,
    prefix,
    counts,
    broken,
    size,
    shift,
    HAS_INSIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    BINS: tl.constexpr,
):
    """Histogram of the byte above `shift`, of those of a tile's keys that begin with the row's prefix."""
    row = tl.program_id(1)
    start = row.to(tl.int64) * size
    below = shift.to(tl.uint32)
    known = tl.load(prefix + row).to(tl.uint32, bitcast=True)
    bins = tl.arange(0, BINS)
    found = tl.zeros([BINS], dtype=tl.int32)
    highest = tl.zeros([BLOCK], dtype=tl.uint32)
    for part in range(PARTS):
        places = (tl.program_id(0) * PARTS + part) * BLOCK + tl.arange(0, BLOCK)
        within = places < size
        keys = _keys(scores, inside, start, places, within, HAS_INSIDE)
        highest = tl.maximum(highest, tl.where(within, keys, 0))
        rest = keys >> below
        meant = within & ((rest >> 8) == known)
        found += tl.histogram(tl.where(meant, rest & 0xFF, 0).to(tl.int32), BINS)
        found -= tl.where(bins == 0, BLOCK - tl.sum(meant.to(tl.int32), 0), 0)
    tl.atomic_add(counts + row * BINS + bins, found, mask=found > 0)
    # From there on up they are NaN's.
    if tl.max(highest, 0) >= 0xFFC00000:
        tl.store(broken + row, 1)


@triton.jit
def _choose(prefix, missing, counts, BINS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The next byte of each row's threshold, and how many of those that have it are still to be kept."""
    row = tl.program_id(0)
    bins = tl.arange(0, BINS)
    found = tl.load(counts + row * BINS + bins)
    wanted = tl.load(missing + row)
    from_here = tl.sum(found, 0) - tl.cumsum(found, 0) + found
    digit = tl.max(tl.where(from_here >= wanted, bins, 0), 0)
    above = tl.sum(tl.where(bins > digit, found, 0), 0)
    tl.store(missing + row, wanted - above)
    tl.store(prefix + row, (tl.load(prefix + row) << 8) | digit)
    tl.store(counts + row * BINS + bins, tl.zeros_like(found))


@triton.jit
def _ties(  # type: ignore[no-untyped-def]
    scores, inside, prefix, ties, size, HAS_INSIDE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr
):
    """How many of a tile equal the row's threshold."""
    row = tl.program_id(1)
    start = row.to(tl.int64) * size
    threshold = tl.load(prefix + row).to(tl.uint32, bitcast=True)
    found = 0
    for part in range(PARTS):
        places = (tl.program_id(0) * PARTS + part) * BLOCK + tl.arange(0, BLOCK)
        within = places < size
        keys = _keys(scores, inside, start, places, within, HAS_INSIDE)
        found += tl.sum((within & (keys == threshold)).to(tl.int32), 0)
    tl.store(ties + row * tl.num_programs(0) + tl.program_id(0), found)


@triton.jit
def _write(  # type: ignore[no-untyped-def]
    scores,
    inside,
    prefix,
    missing,
    ties,
    ends,
    broken,
    mask,
    size,
    HAS_INSIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The mask of a tile: what is above the threshold, and of its equals the first of the row."""
    row = tl.program_id(1)
    tile = row * tl.num_programs(0) + tl.program_id(0)
    start = row.to(tl.int64) * size
    threshold = tl.load(prefix + row).to(tl.uint32, bitcast=True)
    left = tl.load(missing + row) - (tl.load(ends + tile) - tl.load(ties + tile))
    whole = tl.load(broken + row) == 0
    for part in range(PARTS):
        places = (tl.program_id(0) * PARTS + part) * BLOCK + tl.arange(0, BLOCK)
        within = places < size
        keys = _keys(scores, inside, start, places, within, HAS_INSIDE)
        equal = (within & (keys == threshold)).to(tl.int32)
        kept = (keys > threshold) | ((equal != 0) & (tl.cumsum(equal, 0) <= left))
        tl.store(mask + start + places, (kept & whole).to(tl.uint8), mask=within)
        left -= tl.sum(equal, 0)


class RadixTopK:
    """As `RowTopK`, of float32 on a GPU."""

    def __init__(self, n: int, size: int, device: torch.device) -> None:
        self.grid = triton.cdiv(size, BLOCK * PARTS), n
        self.counts = torch.zeros(n, BINS, dtype=torch.int32, device=device)
        self.prefix, self.missing, self.broken = torch.zeros(3, n, dtype=torch.int32, device=device)
        self.ties = torch.zeros(n, self.grid[0], dtype=torch.int32, device=device)

    def mask(
        self,
        rows: Tensor,
        kept: Tensor,
        fewer: Tensor | None = None,
        least: int = 0,
        most: int = 0,
        inside: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """As `RowTopK.mask`, bit for bit; of the numbers of what is kept `kept` alone is read."""
        n, size = rows.shape
        out = torch.empty_like(rows, dtype=torch.bool) if out is None else out
        scores = rows.contiguous()
        part = scores if inside is None else inside.contiguous().view(torch.uint8)
        self.prefix.zero_()
        self.broken.zero_()
        self.missing.copy_(kept)
        own = {"HAS_INSIDE": inside is not None, "BLOCK": BLOCK, "PARTS": PARTS}
        for shift in (24, 16, 8, 0):
            _count[self.grid](scores, part, self.prefix, self.counts, self.broken, size, shift, BINS=BINS, **own)
            _choose[(n,)](self.prefix, self.missing, self.counts, BINS=BINS)
        _ties[self.grid](scores, part, self.prefix, self.ties, size, **own)
        ends = self.ties.cumsum(1, dtype=torch.int32)
        found = (self.prefix, self.missing, self.ties, ends, self.broken)
        _write[self.grid](scores, part, *found, out.view(torch.uint8), size, **own)
        return out


@cache
def confirmed(device: torch.device) -> bool:
    """Whether the kernels compile for this device, and choose there what `RowTopK` does. Asked once."""
    n, size = 3, 3 * BLOCK * PARTS + 5
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(n, size, generator=draw)
    # Many equal ones, 0 of both signs among them.
    rows[1] = (rows[1] * 2).round() / 2
    rows[2] = torch.where(rows[2] > 0, 0.0, -0.0)
    inside = (torch.rand(n, size, generator=draw) < 0.8).to(device)
    least, most = size // 50, size // 3
    kept = torch.tensor([least, most, size // 4], dtype=torch.float64).to(device)
    rows = rows.to(device)
    rule = RowTopK(n, size, rows.dtype, device)
    try:
        kernels = RadixTopK(n, size, device)
        return all(
            torch.equal(kernels.mask(rows, kept, inside=part), rule.mask(rows, kept, most - kept, least, most, part))
            for part in (None, inside)
        )
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a compiler, or a driver, makes of them
        return False
