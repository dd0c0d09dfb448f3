"""How sure a difference is: paired bootstrap over dev examples, from the predictions that runs keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smpcli.results.rundir import RunDir, RunError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    #: (resamples, examples) how often each example was drawn -> the metric of each resample.
    Statistic = Callable[[NDArray[np.float32]], Array]

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 0
# Draws held at a time: 4 million are some 50 MB.
_DRAWS = 2**22


class Outcome:
    """What a run predicted on one dev set; `statistic` gives its metric of any resample."""

    def __init__(self, labels: Sequence[Any], statistic: Statistic) -> None:
        self.labels = list(labels)
        self.statistic = statistic


def outcome(run: RunDir, metric: str) -> Outcome | None:
    """The run's predictions for `metric`; None where they are missing or don't give the metric that the run reports.

    A row of predictions.jsonl may hold the metric itself, under its name: then the mean over examples is what counts.
    """
    import numpy as np

    try:
        splits, reported = run.predictions, run.result.metrics[metric]
    except RunError:
        return None
    name, rows = _split(metric, splits)
    try:
        found = _statistic(name, rows)
    except (KeyError, TypeError, ValueError):
        return None
    if found is None or not math.isclose(
        float(found(np.ones((1, len(rows)), np.float32))[0]), reported, rel_tol=1e-6, abs_tol=1e-6
    ):
        return None
    return Outcome([row.get("label") for row in rows], found)


def intervals(
    pairs: Sequence[tuple[Sequence[Outcome], Sequence[Outcome]]], resamples: int = RESAMPLES
) -> list[tuple[float, float] | None]:
    """95 % percentile intervals of mean(metric of the first) - mean(metric of the second), seeds being averaged.

    Each resample draws as many dev examples as there are, with replacement, the same ones for every run: so what is
    easy or hard for both cancels out (Efron and Tibshirani 1993, ch. 13). The draws depend on the number of examples
    alone, so a figure doesn't change with what it is listed beside. None for a pair without runs, or whose runs saw
    different labels.
    """
    import numpy as np

    usable = [
        bool(ours and theirs and ours[0].labels) and all(one.labels == ours[0].labels for one in (*ours, *theirs))
        for ours, theirs in pairs
    ]
    by_size: dict[int, dict[int, Outcome]] = {}
    for pair, use in zip(pairs, usable, strict=True):
        for one in (*pair[0], *pair[1]) if use else ():
            by_size.setdefault(len(one.labels), {})[id(one)] = one
    values: dict[int, Array] = {}
    for size, outcomes in by_size.items():
        parts: dict[int, list[Array]] = {key: [] for key in outcomes}
        for counts in _resamples(size, resamples):
            for key, one in outcomes.items():
                parts[key].append(one.statistic(counts))
        values |= {key: np.concatenate(part) for key, part in parts.items()}
    found: list[tuple[float, float] | None] = []
    for (ours, theirs), use in zip(pairs, usable, strict=True):
        if not use:
            found.append(None)
            continue
        difference = np.mean([values[id(one)] for one in ours], 0) - np.mean([values[id(one)] for one in theirs], 0)
        low, high = np.quantile(difference, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        # Without the noise of the last digits, by which 0 would print as -0.
        found.append((round(float(low), 12), round(float(high), 12)))
    return found


def _resamples(size: int, resamples: int) -> Iterator[NDArray[np.float32]]:
    """How often each of `size` examples was drawn, (some resamples, size) at a time."""
    import numpy as np

    generator = np.random.default_rng(_SEED)
    some = max(1, _DRAWS // size)
    for start in range(0, resamples, some):
        count = min(some, resamples - start)
        drawn = generator.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=count * size).reshape(count, size).astype(np.float32)


def _split(metric: str, splits: Mapping[str, list[dict[str, Any]]]) -> tuple[str, list[dict[str, Any]]]:
    """A metric's name and rows: "accuracy_mismatched" is the accuracy on the dev set "mismatched"."""
    first, *others = list(splits) or [""]
    for split in others:
        if metric.endswith(f"_{split}"):
            return metric.removesuffix(f"_{split}"), splits[split]
    return metric, splits.get(first, [])


def _statistic(metric: str, rows: Sequence[Mapping[str, Any]]) -> Statistic | None:
    import numpy as np

    if not rows:
        return None
    if all(metric in row for row in rows):
        each = np.array([row[metric] for row in rows], np.float64)
        return lambda counts: counts @ each / counts.shape[1]
    truth, guess = (np.array([row[key] for row in rows]) for key in ("label", "prediction"))
    if truth.ndim != 1 or guess.ndim != 1 or truth.dtype.kind not in "iuf" or guess.dtype.kind not in "iuf":
        return None
    if metric in _OF_CONFUSION:
        return _of_confusion(_OF_CONFUSION[metric], truth, guess)
    if metric == "pearson":
        return lambda counts: _correlation(counts, truth, guess)
    if metric == "spearman":
        return _spearman(truth, guess)
    return None


# -- metrics of classes: functions of how often each (label, prediction) was drawn ---------------------------


def _of_confusion(of: Callable[[Array, NDArray[Any]], Array], truth: NDArray[Any], guess: NDArray[Any]) -> Statistic:
    import numpy as np

    classes, codes = np.unique(np.concatenate([truth, guess]), return_inverse=True)
    cells = codes[: len(truth)] * len(classes) + codes[len(truth) :]
    hot = np.zeros((len(truth), len(classes) ** 2), np.float32)
    hot[np.arange(len(truth)), cells] = 1
    shape = (-1, len(classes), len(classes))
    # Counts of up to 2^24 are exact in float32.
    return lambda counts: of((counts @ hot).astype(np.float64).reshape(shape), classes)


def _accuracy(confusion: Array, classes: NDArray[Any]) -> Array:
    right: Array = confusion.trace(axis1=1, axis2=2) / confusion.sum((1, 2))
    return right


def _f1(confusion: Array, classes: NDArray[Any]) -> Array:
    """Of class 1, as `smpcli.tasks.metrics`."""
    import numpy as np

    positive = np.flatnonzero(classes == 1)
    if not len(positive):
        return np.zeros(len(confusion))
    return _f1_of_each(confusion)[:, positive[0]]


def _macro_f1(confusion: Array, classes: NDArray[Any]) -> Array:
    """Mean over the classes that are seen in the resample, as scikit-learn's."""
    seen = (confusion.sum(1) + confusion.sum(2)) > 0
    mean: Array = (_f1_of_each(confusion) * seen).sum(1) / seen.sum(1)
    return mean


def _f1_of_each(confusion: Array) -> Array:
    import numpy as np

    right = np.diagonal(confusion, axis1=1, axis2=2)
    return _divide(2 * right, confusion.sum(1) + confusion.sum(2))


def _matthews(confusion: Array, classes: NDArray[Any]) -> Array:
    """Gorodkin's coefficient for any number of classes (2004, eq. 8)."""
    import numpy as np

    labels, predictions, total = confusion.sum(2), confusion.sum(1), confusion.sum((1, 2))
    shared = confusion.trace(axis1=1, axis2=2) * total - (labels * predictions).sum(1)
    spread = (total**2 - (labels**2).sum(1)) * (total**2 - (predictions**2).sum(1))
    return _divide(shared, np.sqrt(spread))


_OF_CONFUSION: dict[str, Callable[[Any, Any], Any]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}


# -- correlations --------------------------------------------------------------------------------------------


def _correlation(counts: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> Array:
    """Pearson's r of each resample; x and y (examples,), or (resamples, examples) where each has its own."""
    import numpy as np

    weights = counts.astype(np.float64)
    total = weights.sum(1, keepdims=True)

    def centred(values: NDArray[Any]) -> Array:
        values = np.broadcast_to(values, weights.shape)
        middle: Array = values - (weights * values).sum(1, keepdims=True) / total
        return middle

    x, y = centred(x), centred(y)
    spread = np.sqrt((weights * x * x).sum(1) * (weights * y * y).sum(1))
    return _divide((weights * x * y).sum(1), spread)


def _spearman(truth: NDArray[Any], guess: NDArray[Any]) -> Statistic:
    ranks_of_truth, ranks_of_guess = _ranker(truth), _ranker(guess)
    return lambda counts: _correlation(counts, ranks_of_truth(counts), ranks_of_guess(counts))


def _ranker(values: NDArray[Any]) -> Callable[[NDArray[Any]], Array]:
    """Ranks within each resample, (resamples, examples); equal values share the middle of their places."""
    import numpy as np

    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))

    def ranks(counts: NDArray[Any]) -> Array:
        size = np.add.reduceat(counts[:, order].astype(np.float64), starts, axis=1)
        middle: Array = (np.cumsum(size, axis=1) - size / 2 + 0.5)[:, group]
        return middle

    return ranks


def _divide(above: Array, below: Array) -> Array:
    """0 where a metric is undefined, as `smpcli.tasks.metrics` has it."""
    import numpy as np

    return np.divide(above, below, out=np.zeros_like(below), where=below > 1e-12)
