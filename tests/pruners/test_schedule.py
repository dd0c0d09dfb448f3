"""Schedules against their formulas."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruners.base import Pruner, PrunerSettings
from pruners.schedule import cubic_decay, cubic_rise, exponential_decay, linear_decay
from pruners.scored import ScoredPruner, ScoredSettings
from pruners.smp import SMP, SMPSettings

FRACTIONS = st.floats(0, 1)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        # v_f = 0.1: 0.1 + 0.9 (1 - t)^3
        (Fraction(0), Fraction(1)),
        (Fraction(1, 4), Fraction(1, 10) + Fraction(9, 10) * Fraction(27, 64)),
        (Fraction(1, 2), Fraction(1, 10) + Fraction(9, 10) * Fraction(1, 8)),
        (Fraction(3, 4), Fraction(1, 10) + Fraction(9, 10) * Fraction(1, 64)),
        (Fraction(1), Fraction(1, 10)),
    ],
)
def test_cubic_decay_at_points(progress: Fraction, expected: Fraction) -> None:
    assert cubic_decay(float(progress), 0.1) == pytest.approx(float(expected), abs=1e-15)


@pytest.mark.parametrize(
    ("progress", "cubic", "linear"),
    [
        # From 0.2 to 0.7 down to 0.2; half way, 0.45: 0.2 + 0.8 / 8 and 0.2 + 0.8 / 2.
        (0.0, 1.0, 1.0),
        (0.2, 1.0, 1.0),
        (0.45, 0.3, 0.6),
        (0.7, 0.2, 0.2),
        (0.9, 0.2, 0.2),
        (1.0, 0.2, 0.2),
    ],
)
def test_a_ramp_that_begins_late_and_ends_early(progress: float, cubic: float, linear: float) -> None:
    assert cubic_decay(progress, 0.2, 0.2, 0.7) == pytest.approx(cubic, abs=1e-12)
    assert linear_decay(progress, 0.2, 0.2, 0.7) == pytest.approx(linear, abs=1e-12)


@given(FRACTIONS, st.lists(FRACTIONS, min_size=2, max_size=2).map(sorted), st.lists(FRACTIONS, min_size=2))
@settings(max_examples=300)
def test_decay_never_rises_and_goes_from_one_to_the_final_density(
    final: float, ramp: list[float], points: list[float]
) -> None:
    start, end = ramp
    for decay in (cubic_decay, linear_decay, exponential_decay):
        densities = [decay(progress, final, start, end) for progress in sorted(points)]
        # Exactly within the bounds: a density above 1 could not be kept. The last digit of a power may be off by one.
        assert all(final <= density <= 1 for density in densities)
        assert all(later <= earlier + 1e-15 for earlier, later in pairwise(densities))
        assert decay(1.0, final, start, end) == final
        if end > 0:
            assert decay(0.0, final, start, end) == 1.0


def test_exponential_decay_keeps_the_same_share_of_what_is_left_each_time() -> None:
    # From 0.2 to 0.7 of the run down to 0.0001: a tenth of what is left, four times.
    points = [exponential_decay(t, 0.0001, 0.2, 0.7) for t in (0.0, 0.2, 0.325, 0.45, 0.575, 0.7, 1.0)]
    assert points == pytest.approx([1, 1, 0.1, 0.01, 0.001, 0.0001, 0.0001], rel=1e-12)
    assert Pruner(PrunerSettings(schedule="exp", ramp_end=0.5)).density(0.25, 0.25) == pytest.approx(0.5)


@given(FRACTIONS)
def test_a_ramp_without_width_is_a_step(final: float) -> None:
    assert [cubic_decay(progress, final, 0.5, 0.5) for progress in (0.49, 0.5)] == [1.0, final]
    assert cubic_decay(0.0, final, 0.0, 0.0) == final


@pytest.mark.parametrize(("progress", "expected"), [(0, 0), (0.25, 400 * 37 / 64), (0.5, 350), (1, 400)])
def test_cubic_rise_at_points(progress: float, expected: float) -> None:
    # 400 (1 - (1 - t)^3)
    assert cubic_rise(progress, 400) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("start", "end", "weights"),
    [
        # 8 (1 - (1 - x)^3) at t = 0, 1/4, 1/2, 3/4, 1.
        (0.0, 1.0, [0, 4.625, 7, 7.875, 8]),
        (0.0, 0.5, [0, 7, 8, 8, 8]),
        (0.25, 0.75, [0, 0, 7, 8, 8]),
        # Constant from the start; a step.
        (0.0, 0.0, [8, 8, 8, 8, 8]),
        (0.5, 0.5, [0, 0, 8, 8, 8]),
    ],
)
def test_a_penalty_that_rises_between_two_points(start: float, end: float, weights: list[float]) -> None:
    points = [0, 0.25, 0.5, 0.75, 1]
    assert [cubic_rise(t, 8, start, end) for t in points] == pytest.approx(weights, abs=1e-12)
    pruner = ScoredPruner(ScoredSettings(penalty=8, penalty_start=start, penalty_end=end))
    assert [pruner.penalty_weight(t) for t in points] == pytest.approx(weights, abs=1e-12)


@pytest.mark.parametrize(
    ("sparsity", "weight"), [(0.0, 0.0), (0.1, 0.0), (0.2, 0.0), (0.35, 200.0), (0.5, 400.0), (0.9, 400.0)]
)
def test_smp_s_own_penalty_is_none_up_to_a_fifth_and_whole_from_half_on(sparsity: float, weight: float) -> None:
    pruner = SMP(SMPSettings(structure=1.0))
    pruner.begin([], 1 - sparsity)
    assert pruner.penalty_weight(1.0) == pytest.approx(weight, abs=1e-9)
    # Given, it is what was given.
    other = SMP(SMPSettings(structure=1.0, penalty=130.0))
    other.begin([], 1 - sparsity)
    assert other.penalty_weight(1.0) == 130


def test_a_penalty_can_t_end_before_it_starts() -> None:
    with pytest.raises(ValueError, match=r"penalty_start must be at most penalty_end \(0.6\), not 0.7"):
        ScoredSettings(penalty_start=0.7, penalty_end=0.6)
    # The settings of the base class are still checked.
    with pytest.raises(ValueError, match="ramp_start"):
        ScoredSettings(ramp_start=0.7)


def test_a_method_follows_its_settings() -> None:
    linear = Pruner(PrunerSettings(schedule="linear", ramp_start=0.0, ramp_end=0.8))
    assert linear.density(0.4, 0.1) == pytest.approx(0.55)
    cubic = Pruner(PrunerSettings(ramp_end=0.8))
    assert cubic.density(0.4, 0.1) == pytest.approx(0.1 + 0.9 / 8)
    assert cubic.penalty_weight(0.5) == 0
    # The penalty rises over the whole run, not only while the density falls.
    assert ScoredPruner(ScoredSettings(penalty=8, ramp_end=0.5)).penalty_weight(0.5) == pytest.approx(7)
