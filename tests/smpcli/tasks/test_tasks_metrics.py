"""Metrics against their formulas, written out plainly."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpcli.errors import UserError
from smpcli.tasks.metrics import compute


def plain_pearson(x: list[float], y: list[float]) -> float:
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def ranks(x: list[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    return [sum(b < a for b in x) + (sum(b == a for b in x) + 1) / 2 for a in x]


def test_binary_metrics_are_their_formulas() -> None:
    rng = random.Random(1)
    truth = [rng.random() < 0.3 for _ in range(200)]
    guess = [t if rng.random() < 0.8 else not t for t in truth]
    pairs = list(zip(guess, truth, strict=True))
    tp, fp = pairs.count((True, True)), pairs.count((True, False))
    fn, tn = pairs.count((False, True)), pairs.count((False, False))
    f1, f0 = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
    matthews = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    found = compute(["matthews", "f1", "accuracy", "macro_f1"], [int(g) for g in guess], [int(t) for t in truth])
    assert list(found) == ["matthews", "f1", "accuracy", "macro_f1"]
    assert found == pytest.approx(
        {"accuracy": (tp + tn) / 200, "f1": f1, "macro_f1": (f0 + f1) / 2, "matthews": matthews}
    )
    assert all(type(value) is float for value in found.values())


def test_macro_f1_of_three_classes_by_hand() -> None:
    # class 0: 2 * 1 / (2 + 1 + 0), class 1: 2 * 1 / (2 + 0 + 1), class 2: 1
    assert compute(["macro_f1"], [0, 0, 1, 2], [0, 1, 1, 2])["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_correlations_are_their_formulas_with_ties() -> None:
    rng = random.Random(2)
    truth = [float(rng.randrange(6)) for _ in range(150)]
    guess = [t + rng.gauss(0, 1.5) // 1 for t in truth]
    found = compute(["pearson", "spearman"], guess, truth)
    assert found["pearson"] == pytest.approx(plain_pearson(guess, truth))
    assert found["spearman"] == pytest.approx(plain_pearson(ranks(guess), ranks(truth)))


@pytest.mark.parametrize(
    "metric, guess, truth",
    [
        ("matthews", [1, 1, 1], [0, 1, 1]),
        ("matthews", [0, 1, 1], [1, 1, 1]),
        ("f1", [0, 0, 0], [0, 0, 0]),
        ("f1", [0, 0, 0], [0, 1, 0]),
        ("pearson", [1.5, 1.5, 1.5], [0.0, 1.0, 2.0]),
        ("spearman", [0.0, 1.0, 2.0], [3.0, 3.0, 3.0]),
        ("pearson", [1.0], [2.0]),
    ],
)
def test_undefined_is_zero(metric: str, guess: list[float], truth: list[float]) -> None:
    assert compute([metric], guess, truth) == {metric: 0.0}


@given(st.lists(st.tuples(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30)), min_size=1, max_size=12))
def test_correlations_are_never_nan(pairs: list[tuple[float, float]]) -> None:
    found = compute(["pearson", "spearman"], [a for a, _ in pairs], [b for _, b in pairs])
    assert all(-1.0000001 <= value <= 1.0000001 for value in found.values())


def test_predictions_of_a_diverged_run_are_refused() -> None:
    with pytest.raises(UserError, match="diverged"):
        compute(["pearson"], [0.1, float("nan")], [1.0, 2.0])


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="as many"):
        compute(["accuracy"], [1], [1, 0])
    with pytest.raises(UserError, match="no examples"):
        compute(["accuracy"], [], [])
    with pytest.raises(ValueError, match="no metric"):
        compute(["bleu"], [1], [1])
