"""Intervals of differences: against scikit-learn and SciPy on resamples that are really drawn, one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import MakeRun

from smpcli.comparison import bootstrap
from smpcli.comparison.bootstrap import dev_predictions, intervals
from smpcli.comparison.compare import compare
from smpcli.runs.rundir import RunDir
from smpcli.tasks.metrics import compute

Pair = tuple[Sequence[Any], Sequence[Any]]


def write_predictions(run: Path, **splits: Pair) -> None:
    """predictions.jsonl by hand: split=(labels, predictions)."""
    rows = [
        {"split": split, "label": label, "prediction": prediction}
        for split, (labels, predictions) in splits.items()
        for label, prediction in zip(labels, predictions, strict=True)
    ]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def noisy(metric: str, labels: np.ndarray, wrong: float, seed: int) -> np.ndarray:
    """Predictions that miss now and then."""
    generator = np.random.default_rng(seed)
    if metric in ("pearson", "spearman"):
        # Rounded, so that there are ties.
        return np.round(labels + generator.normal(0, 2 * wrong, len(labels)), 1)
    missed = generator.random(len(labels)) < wrong
    return np.where(missed, generator.integers(0, labels.max() + 1, len(labels)), labels)


def task(metric: str, examples: int) -> np.ndarray:
    generator = np.random.default_rng(3)
    if metric in ("pearson", "spearman"):
        return np.round(generator.uniform(0, 5, examples), 1)
    return generator.integers(0, 3 if metric in ("macro_f1", "accuracy") else 2, examples)


METRICS = ["accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]


@pytest.mark.parametrize("metric", METRICS)
def test_every_resample_has_the_metric_of_its_examples(tmp_path: Path, make_run: MakeRun, metric: str) -> None:
    """Few examples, so that resamples with a class or a spread missing are among them."""
    labels = task(metric, 9)
    guess = noisy(metric, labels, 0.3, 1)
    value = compute([metric], guess.tolist(), labels.tolist())[metric]
    run = make_run(tmp_path / "r", metric=metric, metrics={metric: value})
    write_predictions(run, dev=(labels.tolist(), guess.tolist()))
    found = dev_predictions(RunDir.open(run), metric)
    assert found is not None
    generator = np.random.default_rng(7)
    drawn = generator.integers(0, 9, (300, 9))
    drawn[0] = 4  # the same example nine times
    counts = np.array([np.bincount(row, minlength=9) for row in drawn], np.float32)
    expected = [compute([metric], guess[row].tolist(), labels[row].tolist())[metric] for row in drawn]
    assert found.statistic(counts) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_the_interval_of_a_difference_is_that_of_a_plain_bootstrap(
    tmp_path: Path, make_run: MakeRun, metric: str
) -> None:
    """Two seeds against two dense ones; the reference draws its own resamples and uses the libraries' metrics."""
    examples = 120
    labels = task(metric, examples)
    guesses = {
        ("smp", seed): noisy(metric, labels, 0.25 + seed / 20, 10 + seed) for seed in (0, 1)
    } | {("dense", seed): noisy(metric, labels, 0.1, 20 + seed) for seed in (0, 1)}  # fmt: skip
    for (method, seed), guess in guesses.items():
        value = compute([metric], guess.tolist(), labels.tolist())[metric]
        run = make_run(tmp_path / f"{method}{seed}", run__method=method, run__seed=seed, metric=metric,
                       metrics={metric: value})  # fmt: skip
        write_predictions(run, dev=(labels.tolist(), guess.tolist()))
    (row,) = [row for row in compare(tmp_path).rows if row.method == "smp"]
    assert row.difference_low is not None and row.difference_high is not None

    generator, differences = np.random.default_rng(99), []
    for _ in range(250):
        drawn = generator.integers(0, examples, examples)
        means = {
            method: np.mean([
                compute([metric], guesses[method, seed][drawn].tolist(), labels[drawn].tolist())[metric]
                for seed in (0, 1)
            ])
            for method in ("smp", "dense")
        }  # fmt: skip
        differences.append(means["smp"] - means["dense"])
    low, high = np.quantile(differences, [0.025, 0.975])
    # Two bootstraps' ends differ by what 250 draws leave open: far less than the interval's width.
    assert row.difference_low == pytest.approx(low, abs=0.15 * (high - low))
    assert row.difference_high == pytest.approx(high, abs=0.15 * (high - low))
    assert None not in (row.difference_low, row.difference, row.difference_high)
    assert row.difference_low <= row.difference <= row.difference_high  # type: ignore[operator]


def test_pairing_narrows_the_interval(tmp_path: Path, make_run: MakeRun) -> None:
    """Two runs that fail on nearly the same examples: unpaired, the interval would be about six times as wide."""
    labels = [0] * 400
    dense = [1] * 80 + [0] * 320
    ours = [1] * 82 + [0] * 318
    for method, guess in (("dense", dense), ("smp", ours)):
        run = make_run(tmp_path / method, run__method=method, metrics__accuracy=guess.count(0) / 400)
        write_predictions(run, dev=(labels, guess))
    (row,) = [row for row in compare(tmp_path).rows if row.method == "smp"]
    assert row.difference == pytest.approx(-0.005)
    # The difference is -(number drawn of two examples) / 400: 0 to 5 of them in 95 % (Poisson of mean 2).
    assert row.difference_high == 0.0
    assert row.difference_low == pytest.approx(-5 / 400, abs=1 / 400)


def mean_of(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means of resamples, whose rows say how often each value was drawn."""
    return np.asarray(counts @ values / len(values))


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """400 pairs of runs on 150 examples, right with probability 0.8 and 0.7: 95 % of the intervals hold -0.1."""
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        predictions = []
        for right in (0.7, 0.8):
            correct = (generator.random(150) < right).astype(float)
            predictions.append(bootstrap.DevPredictions([0] * 150, partial(mean_of, correct)))
        ((low, high),) = intervals([([predictions[0]], [predictions[1]])], resamples=400)  # type: ignore[misc]
        held += low <= -0.1 <= high
    # Four standard errors of a share of 0.95 among 400, and the percentile interval's own small error.
    assert 0.90 <= held / 400 <= 0.99


def test_the_same_runs_give_the_same_interval_whatever_is_beside_them(tmp_path: Path, make_run: MakeRun) -> None:
    labels = task("accuracy", 200)
    for method, wrong in (("dense", 0.1), ("smp", 0.2), ("movement", 0.3)):
        guess = noisy("accuracy", labels, wrong, len(method))
        run = make_run(tmp_path / method, run__method=method, metrics__accuracy=float((guess == labels).mean()))
        write_predictions(run, dev=(labels.tolist(), guess.tolist()))
    both = {row.method: row for row in compare(tmp_path).rows}
    alone = {row.method: row for row in compare(tmp_path, methods=["smp"]).rows}
    assert list(alone) == ["smp"]
    ends = [(rows["smp"].difference_low, rows["smp"].difference_high) for rows in (alone, both)]
    assert ends[0] == ends[1] != (None, None)


def test_many_examples_are_drawn_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = (np.arange(50) % 3 > 0).astype(float)
    one = bootstrap.DevPredictions([0] * 50, lambda counts: counts @ correct / counts.shape[1])
    none = bootstrap.DevPredictions([0] * 50, lambda counts: np.zeros(len(counts)))
    drawn = []
    for most in (50 * 7, 10**6):
        monkeypatch.setattr(bootstrap, "_DRAWS", most)
        parts = list(bootstrap._resamples(50, 100))
        assert all(len(part) <= max(1, most // 50) for part in parts)
        counts = np.concatenate(parts)
        assert counts.shape == (100, 50) and (counts.sum(1) == 50).all()
        (ends,) = intervals([([one], [none])], resamples=100)
        assert ends is not None
        drawn.append(ends)
    # 33 of 50 are right.
    for low, high in drawn:
        assert low == pytest.approx(0.66 - 1.96 * 0.067, abs=0.04)
        assert high == pytest.approx(0.66 + 1.96 * 0.067, abs=0.04)


@pytest.mark.parametrize("case", ["none", "garbage", "wrong metric", "other labels", "texts", "fewer"])
def test_without_predictions_that_fit_there_is_no_interval(tmp_path: Path, make_run: MakeRun, case: str) -> None:
    labels, guess = [0, 1] * 20, [0, 1] * 18 + [1, 0] * 2
    for method in ("dense", "smp"):
        run = make_run(tmp_path / method, run__method=method, metrics__accuracy=0.9)
        write_predictions(run, dev=(labels, guess))
    whole = {row.method: row for row in compare(tmp_path).rows}["smp"]
    assert whole.difference_low == whole.difference_high == 0.0
    path = tmp_path / "smp" / "predictions.jsonl"
    if case == "none":
        path.unlink()
    elif case == "garbage":
        path.write_text("{")
    elif case == "wrong metric":  # predictions that aren't those of the result
        write_predictions(tmp_path / "smp", dev=(labels, labels))
    elif case == "other labels":
        write_predictions(tmp_path / "smp", dev=([1 - x for x in labels], [1 - x for x in guess]))
    elif case == "texts":
        write_predictions(tmp_path / "smp", dev=(["a"] * 40, ["a"] * 36 + ["b"] * 4))
    else:
        write_predictions(tmp_path / "smp", dev=(labels[:20], guess[-20:]))
    row = {row.method: row for row in compare(tmp_path).rows}["smp"]
    assert (row.difference_low, row.difference_high) == (None, None)
    assert row.difference == 0.0


def test_answers_by_hand(tmp_path: Path, make_run: MakeRun) -> None:
    """SQuAD's rules: no case, punctuation, articles; the best of a question's answers."""
    rows = [
        ("the Cat sat!", ["A dog", "a cat sat down."], 0.0, 0.8),  # 2 of 2 and 2 of 3 words
        ("An  apple, a day", ["apple day"], 1.0, 1.0),
        ("Thebes", ["the bes"], 0.0, 0.0),
        ("", ["x"], 0.0, 0.0),
        ("", ["the"], 1.0, 1.0),  # neither has a word
        ("go go go", ["go go"], 0.0, 0.8),  # a word counts as often as both have it
    ]
    metrics = {"f1": 3.6 / 6, "exact_match": 2 / 6}
    run = make_run(tmp_path / "r", metric="f1", metrics=metrics)
    write_predictions(run, dev=([row[1] for row in rows], [row[0] for row in rows]))
    for name, place in (("exact_match", 2), ("f1", 3)):
        found = dev_predictions(RunDir.open(run), name)
        assert found is not None
        assert found.statistic(6 * np.eye(6, dtype=np.float32)) == pytest.approx([row[place] for row in rows])


def test_a_second_dev_set_and_a_metric_of_each_example(tmp_path: Path, make_run: MakeRun) -> None:
    """ "accuracy_mm" is the accuracy on "mm"; a row that holds the metric itself counts by that."""
    labels = [0, 1, 2, 0]
    metrics = {"accuracy": 1.0, "accuracy_m": 1.0, "accuracy_mm": 0.5, "overlap": 0.375}
    run = make_run(tmp_path / "r", metrics=metrics)
    write_predictions(run, m=(labels, labels), mm=(labels, [0, 1, 0, 1]))
    opened = RunDir.open(run)
    found = dev_predictions(opened, "accuracy_mm")
    assert found is not None
    assert found.statistic(np.array([[4, 0, 0, 0], [0, 0, 0, 4]], np.float32)).tolist() == [1.0, 0.0]
    for name in ("accuracy", "accuracy_m"):  # the first dev set, with its name or without
        found = dev_predictions(opened, name)
        assert found is not None and found.statistic(np.ones((1, 4), np.float32)).tolist() == [1.0]
    assert dev_predictions(opened, "overlap") is None
    rows = [{"split": "m", "label": ["a"], "prediction": "b", "overlap": value} for value in (0.25, 0.5)]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = dev_predictions(opened, "overlap")
    assert found is not None
    assert found.statistic(np.array([[2, 0], [0, 2]], np.float32)).tolist() == [0.25, 0.5]
