"""How many weights each matrix keeps, against slow references in exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruners.errors import ScoreError
from pruners.masks.allocation import global_counts, kept_weights, proportional_counts, round_to_total, uniform_counts

# -- int(density * prunable) -----------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(0, 10**10))
@settings(max_examples=300)
def test_kept_weights_is_exact_in_decimal(hundredths: int, prunable: int) -> None:
    # As the loop computes it: 1 - sparsity in binary floating point, for a sparsity typed with four decimals.
    assert kept_weights(1 - hundredths / 10_000, prunable) == (10_000 - hundredths) * prunable // 10_000


@pytest.mark.parametrize(
    ("sparsity", "prunable", "expected"),
    [(0.9, 1_000, 100), (0.9, 10_616_832, 1_061_683), (0.97, 100, 3), (0.5, 7, 3), (0.0, 7, 7), (0.999999, 10, 0)],
)
def test_kept_weights_of_known_cases(sparsity: float, prunable: int, expected: int) -> None:
    assert kept_weights(1 - sparsity, prunable) == expected


@pytest.mark.parametrize("density", [-0.001, 1.001, math.nan, math.inf])
def test_a_density_that_is_none_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match="density"):
        kept_weights(density, 10)


# -- rounding to a total ---------------------------------------------------------------------------------


def largest_remainders(shares: Sequence[Fraction], capacity: Sequence[int], total: int) -> list[int]:
    """One weight at a time to the largest remainder that has room and hasn't had one yet (lower index first)."""
    counts = [min(math.floor(share), most) for share, most in zip(shares, capacity, strict=True)]
    remainders = [share - count for share, count in zip(shares, counts, strict=True)]
    while sum(counts) < total:
        served: set[int] = set()
        while sum(counts) < total:
            open_ = [i for i in range(len(counts)) if i not in served and counts[i] < capacity[i]]
            if not open_:
                break
            best = max(open_, key=lambda i: (remainders[i], -i))
            counts[best] += 1
            served.add(best)
    return counts


@given(st.data())
@settings(max_examples=300)
def test_round_to_total_gives_to_the_largest_remainders(data: st.DataObject) -> None:
    # Eighths are exact in binary, so that ties are ties in both.
    capacity = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=8))
    eighths = [data.draw(st.integers(0, 8 * most)) for most in capacity]
    floors = sum(eighth // 8 for eighth in eighths)
    total = data.draw(st.integers(floors, sum(capacity)))
    counts = round_to_total([eighth / 8 for eighth in eighths], capacity, total)
    assert counts == largest_remainders([Fraction(eighth, 8) for eighth in eighths], capacity, total)


@given(st.data())
@settings(max_examples=300)
def test_round_to_total_ends_on_the_total_whatever_the_shares(data: st.DataObject) -> None:
    capacity = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=8))
    shares = [data.draw(st.floats(0, 20)) for _ in capacity]
    total = data.draw(st.integers(0, sum(capacity)))
    counts = round_to_total(shares, capacity, total)
    assert sum(counts) == total
    assert all(0 <= count <= most for count, most in zip(counts, capacity, strict=True))


def test_round_to_total_of_known_cases() -> None:
    assert round_to_total([1.5, 1.5, 1.0], [5, 5, 5], 4) == [2, 1, 1]
    assert round_to_total([0.2, 0.9, 0.9], [5, 5, 5], 2) == [0, 1, 1]
    assert round_to_total([2.0, 9.0], [5, 4], 7) == [3, 4]
    # A last digit below nothing.
    assert round_to_total([-1e-12, 2.0, 1.0], [5, 4, 4], 2) == [0, 1, 1]


@pytest.mark.parametrize("total", [-1, 10])
def test_a_total_that_does_not_fit_is_refused(total: int) -> None:
    with pytest.raises(ValueError, match="fit"):
        round_to_total([1.0, 1.0], [4, 5], total)


# -- the same density everywhere -------------------------------------------------------------------------


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12), st.data())
@settings(max_examples=200)
def test_uniform_counts_are_within_one_of_the_density(sizes: list[int], data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, sum(sizes)))
    counts = uniform_counts(sizes, kept)
    assert sum(counts) == kept
    for size, count in zip(sizes, counts, strict=True):
        assert abs(count - Fraction(kept * size, sum(sizes))) < 1 + 1e-9


def test_uniform_counts_by_hand() -> None:
    # 50 of 400: an eighth of each.
    assert uniform_counts([80, 80, 240], 50) == [10, 10, 30]
    # A third of 10, 10 and 10 is 3.33: the weight that is left goes to the first.
    assert uniform_counts([10, 10, 10], 10) == [4, 3, 3]


# -- SMP-S -----------------------------------------------------------------------------------------------


def smp_s_shares(
    importance: Sequence[float], kinds: Sequence[str], sizes: Sequence[int], kept: int
) -> list[Fraction]:
    """Eq. 4 in exact arithmetic; of the layers above density 1 the fullest is clamped, one at a time, and what it
    can't hold goes to the others of its kind by the same proportion, or where all of those are 0 by their sizes."""
    r = [Fraction(value) for value in importance]
    shares = [Fraction(0)] * len(sizes)
    for kind in sorted(set(kinds)):
        members = [i for i in range(len(sizes)) if kinds[i] == kind]
        budget = Fraction(kept, sum(sizes)) * sum(sizes[i] for i in members)
        while members:
            if not any(r[i] for i in members):
                r = [Fraction(1) if i in members else value for i, value in enumerate(r)]
            scale = budget / sum(r[i] * sizes[i] for i in members)
            fullest = max(members, key=lambda i: r[i])
            if r[fullest] * scale <= 1:
                for i in members:
                    shares[i] = r[i] * scale * sizes[i]
                break
            shares[fullest] = Fraction(sizes[fullest])
            budget -= sizes[fullest]
            members.remove(fullest)
    return shares


@st.composite
def stacks(draw: st.DrawFn) -> tuple[list[float], list[str], list[int], int]:
    """Matrices of one to four kinds; mostly one size a kind as in an encoder, sometimes any."""
    depth = draw(st.integers(1, 6))
    names = ["query", "key", "up", "down"][: draw(st.integers(1, 4))]
    sizes_of = {name: draw(st.integers(1, 400)) for name in names}
    odd = draw(st.booleans())
    kinds = names * depth
    sizes = [draw(st.integers(1, 400)) if odd else sizes_of[kind] for kind in kinds]
    # Means of sigmoids: usual ones, and what is left of them where they underflow.
    value = st.one_of(st.floats(1e-4, 1), st.sampled_from([0.0, 5e-324, 1e-320, 3e-310, 1e-45]))
    importance = [draw(value) for _ in kinds]
    return importance, kinds, sizes, draw(st.integers(0, sum(sizes)))


@given(stacks())
@settings(max_examples=400)
def test_smp_s_against_eq_4_in_exact_arithmetic(stack: tuple[list[float], list[str], list[int], int]) -> None:
    importance, kinds, sizes, kept = stack
    counts = proportional_counts(importance, kinds, sizes, kept)
    assert sum(counts) == kept
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    shares = smp_s_shares(importance, kinds, sizes, kept)
    # Rounding moves a share by less than one weight (the last digits of binary arithmetic aside).
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - share) < 1 + 1e-6


@given(stacks())
@settings(max_examples=200)
def test_smp_s_gives_each_kind_its_part_of_the_total(stack: tuple[list[float], list[str], list[int], int]) -> None:
    importance, kinds, sizes, kept = stack
    counts = proportional_counts(importance, kinds, sizes, kept)
    for kind in set(kinds):
        members = [i for i in range(len(sizes)) if kinds[i] == kind]
        expected = Fraction(kept * sum(sizes[i] for i in members), sum(sizes))
        assert abs(sum(counts[i] for i in members) - expected) < len(members) + 1e-6


def test_smp_s_by_hand() -> None:
    # v = 0.5, L = 2: densities 0.5 * 2 * 0.6 / 0.8 = 0.75 and 0.25 of 100.
    assert proportional_counts([0.6, 0.2], ["query", "query"], [100, 100], 100) == [75, 25]
    # Each kind by itself: equal importance within "key" means equal densities there.
    kinds, sizes = ["query", "key", "query", "key"], [100, 40, 100, 40]
    assert proportional_counts([0.6, 0.9, 0.2, 0.9], kinds, sizes, 140) == [75, 20, 25, 20]


def test_smp_s_clamps_and_hands_on_the_surplus_by_hand() -> None:
    # v = 0.8, L = 3: densities 2.4 * (0.6, 0.3, 0.1) = 1.44, 0.72, 0.24. The first is clamped to 1; of 240 kept, 140
    # are left for two layers by 3 to 1: 105 and 35, so the second is clamped too and the last gets 40.
    assert proportional_counts([0.6, 0.3, 0.1], ["query"] * 3, [100] * 3, 240) == [100, 100, 40]
    # One clamp only: 152 / 100 * (0.8, 0.15, 0.05) = 1.216, …; 52 left by 3 to 1.
    assert proportional_counts([0.8, 0.15, 0.05], ["query"] * 3, [100] * 3, 152) == [100, 39, 13]


def test_a_kind_that_underflowed_leaves_the_others_alone_by_hand() -> None:
    # v = 0.5. "A" is all 0: equal parts, 5 and 5. "B": 10 by 9 to 1.
    assert proportional_counts([0, 0, 0.9, 0.1], list("AABB"), [10] * 4, 20) == [5, 5, 9, 1]
    assert proportional_counts([0.9, 0.1, 0, 0], list("BBAA"), [10] * 4, 20) == [9, 1, 5, 5]
    # v = 0.6, 12 a kind. "A": the first is full, so the 2 that are left go to the other, whose 0 is all there is.
    # "B": 12 by 7 to 3 is 8.4 and 3.6.
    assert proportional_counts([0.5, 0, 0.7, 0.3], list("AABB"), [10] * 4, 24) == [10, 2, 8, 4]
    # Of a kind with 0 and more than 0, the 0 gets nothing while the other has room.
    assert proportional_counts([0.5, 0, 0.7, 0.3], list("AABB"), [10] * 4, 8) == [4, 0, 3, 1]


@pytest.mark.parametrize("unit", [5e-324, 1e-320, 1e-310, 1e-200, 1.0, 1e300])
def test_smp_s_counts_by_proportion_whatever_the_unit(unit: float) -> None:
    # 1 : 3 of 400, then clamped at 1,000 with 700 left.
    assert proportional_counts([unit, 3 * unit], "AA", [1000] * 2, 400) == [100, 300]
    assert proportional_counts([unit, 3 * unit], "AA", [1000] * 2, 1700) == [700, 1000]


def test_the_last_layers_of_a_full_kind_count_by_their_own_unit() -> None:
    # The first is full; 700 are left for 1 : 2, a hundred powers of ten below it.
    assert proportional_counts([1.0, 5e-324, 1e-323], "AAA", [1000] * 3, 1700) == [1000, 233, 467]


def test_scores_that_underflow_in_one_type_spoil_no_other() -> None:
    from pruners.masking import refresh
    from pruners.masks.layer import MaskedLayer
    from pruners.smp import SMP, SMPSettings

    layers: list[MaskedLayer] = []
    for kind, level in (("query", -200.0), ("query", -300.0), ("key", 2.0), ("key", -2.0)):
        layer = MaskedLayer(f"{len(layers)}.{kind}", kind, torch.nn.Linear(10, 10))
        layer.learn_scores(torch.full((10, 10), level), False)
        layers.append(layer)
    refresh(SMP(SMPSettings(init="zero", factored=False, structure=1.0)), layers, 0.5)
    # 100 of "key" by sigmoid(2) to sigmoid(-2), which add up to 1: 88.08 and 11.92.
    first = 100 / (1 + math.exp(-2))
    assert [int(layer.mask.sum()) for layer in layers] == [50, 50, round(first), round(100 - first)]


# -- one top-k over all matrices -------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=200)
def test_global_counts_against_one_stable_sort_of_everything(data: st.DataObject) -> None:
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4))
    levels = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0])
    scores = [
        torch.tensor([[data.draw(levels) for _ in range(inputs)] for _ in range(out)]) for out, inputs in shapes
    ]
    everything = [(value, index) for index, score in enumerate(scores) for value in score.reshape(-1).tolist()]
    kept = data.draw(st.integers(0, len(everything)))
    best = sorted(everything, key=lambda pair: -pair[0])[:kept]
    expected = [sum(index == wanted for _, index in best) for wanted in range(len(scores))]
    assert global_counts(scores, kept) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", [0, 1, 3, 6])
def test_global_counts_refuse_a_score_that_is_none(dtype: torch.dtype, kept: int) -> None:
    scores = [torch.tensor([[1.0, 2.0]], dtype=dtype), torch.tensor([[0.0, math.nan], [3.0, -1.0]], dtype=dtype)]
    with pytest.raises(ScoreError, match="NaN"):
        global_counts(scores, kept)


def test_global_counts_refuse_more_than_there_is() -> None:
    with pytest.raises(ValueError, match="7 weights don't fit into 6"):
        global_counts([torch.zeros(2, 1), torch.zeros(2, 2)], 7)


@pytest.mark.parametrize("kept", [0, 1, 9_000, 90_000, 150_000, 271_000, 299_999, 300_000])
@pytest.mark.parametrize("digits", [1, 3, 7])
def test_global_counts_of_large_matrices(kept: int, digits: int) -> None:
    """Sampled and checked, with many ties or few, and a sample that misleads."""
    generator = torch.Generator().manual_seed(kept + digits)
    scores = [
        torch.randn(300, 500, generator=generator).round(decimals=digits),
        torch.randn(500, 300, generator=generator),
    ]
    scores[0][:, ::61] += 3
    everything = torch.cat([score.reshape(-1) for score in scores])
    first = everything.argsort(descending=True, stable=True)[:kept] < 150_000
    assert global_counts(scores, kept) == [int(first.sum()), kept - int(first.sum())]
