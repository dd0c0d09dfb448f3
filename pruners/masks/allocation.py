"""How many weights each matrix keeps: every rule ends on exactly the total that was asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import torch
from torch import Tensor

from pruners.errors import ScoreError
from pruners.masks.selection import top_k_mask

# One score in so many is looked at to guess where a global threshold lies.
SAMPLE_STRIDE = 61


def kept_weights(density: float, prunable: int) -> int:
    """int(density * prunable), computed in decimal: 0.1 of 1,000 weights are 100, whatever 1 - 0.9 gives in binary.

    Raises ValueError for a density outside [0, 1].
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density must be within [0, 1], not {density}")
    return int(Decimal(repr(round(density, 12))) * prunable)


def round_to_total(shares: Sequence[float], capacity: Sequence[int], total: int) -> list[int]:
    """Whole numbers near `shares`, none above its capacity, that sum to `total` (largest remainders first).

    Ties go to the lower index. Raises ValueError when the capacities can't hold the total.
    """
    if not 0 <= total <= sum(capacity):
        raise ValueError(f"{total} weights don't fit into {sum(capacity)}")
    # What should be nothing may lie below it by a last digit.
    counts = [min(max(0, math.floor(share)), most) for share, most in zip(shares, capacity, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: (counts[i] - shares[i], i))
    while (missing := total - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        room = [i for i in order if (counts[i] < capacity[i] if step > 0 else counts[i] > 0)]
        for i in room[: abs(missing)]:
            counts[i] += step
    return counts


def uniform_counts(sizes: Sequence[int], kept: int) -> list[int]:
    """The same density for every matrix (SMP-L, movement, magnitude)."""
    density = kept / sum(sizes)
    return round_to_total([density * size for size in sizes], sizes, kept)


def proportional_counts(
    importance: Sequence[float], kinds: Sequence[str], sizes: Sequence[int], kept: int
) -> list[int]:
    """SMP-S (eq. 4): within a kind of matrix, layer l gets density v_l = v L r_l / sum(r).

    importance: r_l of each matrix; kinds: its matrix type; sizes: its number of weights. A density above 1 is
    clamped, and the surplus goes to the other layers of that kind in the same proportion, so totals stay exact.
    Layers of a kind that are all 0 share equally. Raises ScoreError for a NaN or infinite importance.
    """
    if not all(math.isfinite(value) for value in importance):
        raise ScoreError("a score is NaN or infinite")
    density = kept / sum(sizes)
    shares = [0.0] * len(sizes)
    for kind in dict.fromkeys(kinds):
        members = [i for i, other in enumerate(kinds) if other == kind]
        left = density * sum(sizes[i] for i in members)
        free = members
        while free:
            # In units of the highest, a power of two so that nothing is rounded: products of tiny values would
            # underflow, sums of huge ones overflow.
            unit = math.frexp(max(importance[i] for i in free))[1]
            r = {i: math.ldexp(importance[i], -unit) for i in free}
            weight = sum(r[i] * sizes[i] for i in free)
            if not weight:
                # sigmoid(S) underflowed in all of these: nothing tells them apart.
                r, weight = dict.fromkeys(free, 1.0), sum(sizes[i] for i in free)
            scale = left / weight
            full = [i for i in free if r[i] * scale >= 1]
            if not full:
                break
            for i in full:
                shares[i] = float(sizes[i])
                left -= sizes[i]
            free = [i for i in free if i not in full]
        for i in free:
            shares[i] = r[i] * scale * sizes[i]
    return round_to_total(shares, sizes, kept)


def global_counts(scores: Sequence[Tensor], kept: int) -> list[int]:
    """What one global top-k over all matrices leaves in each (ablation G, soft movement, L0).

    Raises ScoreError for a NaN score among those near the threshold, ValueError for more than there are.
    """
    if not 0 <= kept <= sum(score.numel() for score in scores):
        raise ValueError(f"{kept} weights don't fit into {sum(score.numel() for score in scores)}")
    if any(score.device.type != "cpu" or score.dtype not in (torch.float32, torch.float64) for score in scores):
        mask = top_k_mask(torch.cat([score.detach().reshape(-1) for score in scores]), kept)
        parts = torch.split(mask, [score.numel() for score in scores])
        counts: list[int] = torch.stack([part.sum() for part in parts]).tolist()
        return counts
    arrays = [score.detach().reshape(-1).numpy() for score in scores]
    above, candidates = _around_threshold(arrays, kept)
    missing = kept - sum(above)
    pool = np.concatenate(candidates)
    if np.isnan(pool).any():
        raise ScoreError("a score is NaN")
    if not missing:
        return above
    threshold = np.partition(pool, pool.size - missing)[pool.size - missing]
    counts = [count + int((own >= threshold).sum()) for count, own in zip(above, candidates, strict=True)]
    surplus = sum(counts) - kept
    for index in reversed(range(len(counts))):
        # Of equal scores the last ones go first.
        dropped = min(surplus, int((candidates[index] == threshold).sum())) if surplus else 0
        counts[index] -= dropped
        surplus -= dropped
    return counts


def _around_threshold(arrays: list[np.ndarray], kept: int) -> tuple[list[int], list[np.ndarray]]:
    """How many scores of each array are surely kept, and those among which the global threshold lies.

    Where it lies is guessed from a sample, and the guess is checked, so that only about one score in fifty is ever
    partitioned (Floyd and Rivest's SELECT, 1975); a wrong guess costs time alone: then all are candidates.
    """
    total = sum(array.size for array in arrays)
    sample = np.sort(np.concatenate([array[::SAMPLE_STRIDE] for array in arrays]))
    expected, spread = sample.size * kept / total, 4 * math.sqrt(sample.size) / 2 + 1
    first, last = sample.size - math.ceil(expected + spread), sample.size - math.floor(expected - spread)
    if sample.size > 1000 and first >= 0 and last < sample.size:
        low, high = sample[first], sample[last]
        above = [int(np.count_nonzero(array >= high)) for array in arrays]
        candidates = [array[(array >= low) & (array < high)] for array in arrays]
        if sum(above) < kept <= sum(above) + sum(own.size for own in candidates):
            return above, candidates
    return [0] * len(arrays), arrays
