"""Metrics against their formulas, written out plainly."""

import itertools
import math
import random
import re
import string
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpcli.errors import UserError
from smpcli.tasks.metrics import compute, compute_answers, one_class


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


@pytest.mark.parametrize("metrics", [["accuracy", "f1", "macro_f1", "matthews"], ["pearson", "spearman"]])
def test_no_warning_of_a_library_leaks(metrics: list[str]) -> None:
    """Each way of being constant, or nearly, on either side or both; without a fix scikit-learn and SciPy warn."""
    sides: list[list[float]] = [[0, 0, 0], [1, 1, 1], [0, 1, 1]]
    if metrics == ["pearson", "spearman"]:
        sides += [[0.1, 0.1, 0.1 + 1e-16], [1e9, 1e9, 1e9 + 1e-6]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for guess, truth in itertools.product(sides, sides):
            assert all(-1 <= value <= 1 for value in compute(metrics, guess, truth).values())


@pytest.mark.parametrize(
    ("predictions", "said"),
    [
        ([1, 1, 1], "predicts one class only, 'good', for all 3 examples"),
        ([1, 1, 0], None),
        ([1], None),
        ([], None),
        ([2.5, 2.5], "predicts one number only, 2.5, for all 2 examples: no correlation can be told"),
        # A float32's last digit, which the texts beside an example in its batch may change.
        ([-3.0, -3.0000002384185791], "predicts one number only, -3, for all 2 examples: no correlation can be told"),
        ([0.0, 0.0], "predicts one number only, 0, for all 2 examples: no correlation can be told"),
        ([3.0, 3.0001], None),
        ([1e308, -1e308], None),
        (["", "", ""], "predicts one answer only, '', for all 3 examples"),
        (["a", "b"], None),
    ],
)
def test_predictions_that_are_all_the_same_are_named(predictions: list[float] | list[str], said: str | None) -> None:
    assert one_class(predictions, ["bad", "good"]) == said


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


def words(text: str) -> list[str]:
    """The words that SQuAD's official script compares: lower case, no punctuation, no articles."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def word_f1(guess: list[str], truth: list[str]) -> float:
    left = list(truth)
    same = 0
    for word in guess:
        if word in left:
            left.remove(word)
            same += 1
    return 2 * same / (len(guess) + len(truth)) if same else 0.0


ANSWERS = [
    ("The Denver Broncos!", ["Denver Broncos", "Broncos"]),
    ("the  cat, a cat", ["cat cat dog", "cat"]),
    ("in 1976", ["1976", "the year 1976"]),
    ("nothing", ["something else"]),
    ("", ["Paris"]),
    ("theatre an hour", ["theatre hour", "An Hour"]),
    ("Zürich\u2014Bern", ["Zürich", "zürich\u2014bern"]),
]


def test_squad_metrics_are_the_official_script_s() -> None:
    exact = [float(max(words(guess) == words(truth) for truth in truths)) for guess, truths in ANSWERS]
    f1 = [max(word_f1(words(guess), words(truth)) for truth in truths) for guess, truths in ANSWERS]
    # By hand: the first, the sixth and the last match whole.
    assert exact == [1, 0, 0, 0, 0, 1, 1]
    assert f1[1:4] == [pytest.approx(4 / 5), pytest.approx(2 / 3), 0]
    found = compute_answers(["f1", "exact_match"], *map(list, zip(*ANSWERS, strict=True)))
    assert list(found) == ["f1", "exact_match"]
    assert found == pytest.approx({"f1": sum(f1) / 7, "exact_match": sum(exact) / 7}, rel=1e-6)


@given(
    st.lists(st.tuples(st.text("ab the.,", max_size=12), st.text("ab the.,", min_size=1, max_size=12)), min_size=1)
)
def test_squad_metrics_of_any_text(pairs: list[tuple[str, str]]) -> None:
    pairs = [(guess, truth) for guess, truth in pairs if words(truth)] or [("a", "b")]
    found = compute_answers(["exact_match", "f1"], [guess for guess, _ in pairs], [[truth] for _, truth in pairs])
    exact = [words(guess) == words(truth) for guess, truth in pairs]
    f1 = [word_f1(words(guess), words(truth)) for guess, truth in pairs]
    assert found == pytest.approx({"exact_match": sum(exact) / len(pairs), "f1": sum(f1) / len(pairs)}, abs=1e-6)


def test_squad_metrics_want_as_many_predictions_as_questions() -> None:
    with pytest.raises(ValueError, match="as many predictions"):
        compute_answers(["f1"], ["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="at least one"):
        compute_answers(["f1"], [], [])
