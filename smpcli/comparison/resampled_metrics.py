"""Metrics of many resamples at once: from how often each example was drawn, not from drawn examples.

Each is what `smpcli.tasks.metrics` gives for the drawn examples, undefined cases included.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    #: (resamples, examples) how often each example was drawn -> the metric of each resample.
    Statistic = Callable[[NDArray[np.float32]], Array]

# Classes times examples: a stranger's predictions may name as many classes as they have rows.
MOST_COUNTED = 2**22


def statistic(metric: str, rows: Sequence[Mapping[str, Any]]) -> Statistic | None:
    """The metric of any resample of these rows; None where they don't hold what it needs."""
    import numpy as np

    if not rows:
        return None
    if all(metric in row for row in rows):
        each = np.array([row[metric] for row in rows], np.float64)
        return lambda counts: counts @ each / counts.shape[1]
    if metric in _OF_ANSWERS and all(isinstance(row["prediction"], str) for row in rows):
        of = _OF_ANSWERS[metric]
        best = np.array([max(of(row["prediction"], answer) for answer in row["label"]) for row in rows], np.float64)
        return lambda counts: counts @ best / counts.shape[1]
    truth, guess = (np.array([row[key] for row in rows]) for key in ("label", "prediction"))
    if truth.ndim != 1 or guess.ndim != 1 or truth.dtype.kind not in "iuf" or guess.dtype.kind not in "iuf":
        return None
    if metric in _OF_CONFUSION:
        return _of_confusion(_OF_CONFUSION[metric], truth, guess)
    if metric == "pearson":
        return _pearson(truth, guess)
    if metric == "spearman":
        return _spearman(truth, guess)
    return None


# -- metrics of classes: functions of how often each was drawn as a label, as a prediction, as both ----------


def _of_confusion(of: Callable[[Counts], Array], truth: NDArray[Any], guess: NDArray[Any]) -> Statistic | None:
    import numpy as np

    classes, codes = np.unique(np.concatenate([truth, guess]), return_inverse=True)
    if len(classes) * len(truth) > MOST_COUNTED:
        return None
    labels, guesses = np.eye(len(classes), dtype=np.float32)[codes.reshape(2, -1)]
    hot = np.concatenate([labels * guesses, labels, guesses], axis=1)

    def statistic(counts: NDArray[np.float32]) -> Array:
        # Counts of up to 2^24 are exact in float32.
        right, labelled, guessed = np.split((counts @ hot).astype(np.float64), 3, axis=1)
        return of(Counts(classes, right, labelled, guessed))

    return statistic


@dataclass(frozen=True)
class Counts:
    """Of each class in each resample, (resamples, classes): how often it was right, was the label, was predicted."""

    classes: NDArray[Any]
    right: Array
    labels: Array
    guesses: Array

    @property
    def f1(self) -> Array:
        return _divide(2 * self.right, self.labels + self.guesses)


def _accuracy(counts: Counts) -> Array:
    found: Array = counts.right.sum(1) / counts.labels.sum(1)
    return found


def _f1(counts: Counts) -> Array:
    """Of class 1, as `smpcli.tasks.metrics`."""
    import numpy as np

    positive = np.flatnonzero(counts.classes == 1)
    return counts.f1[:, positive[0]] if len(positive) else np.zeros(len(counts.right))


def _macro_f1(counts: Counts) -> Array:
    """Mean over the classes that are seen in the resample, as scikit-learn's."""
    seen = (counts.labels + counts.guesses) > 0
    mean: Array = (counts.f1 * seen).sum(1) / seen.sum(1)
    return mean


def _matthews(counts: Counts) -> Array:
    """Gorodkin's coefficient for any number of classes (2004, eq. 8)."""
    import numpy as np

    labels, guesses, total = counts.labels, counts.guesses, counts.labels.sum(1)
    shared = counts.right.sum(1) * total - (labels * guesses).sum(1)
    spread = (total**2 - (labels**2).sum(1)) * (total**2 - (guesses**2).sum(1))
    return _divide(shared, np.sqrt(spread))


_OF_CONFUSION: dict[str, Callable[[Any], Any]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
}


# -- metrics of answers (SQuAD v1.1; Rajpurkar et al., 2016): the best over a question's answers, then the mean ----


def _words(text: str) -> list[str]:
    """Lower-cased words without punctuation and articles."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _exact_match(guess: str, answer: str) -> float:
    return float(_words(guess) == _words(answer))


def _f1_of_words(guess: str, answer: str) -> float:
    ours, theirs = Counter(_words(guess)), Counter(_words(answer))
    if not ours or not theirs:
        return float(ours == theirs)
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


_OF_ANSWERS = {"exact_match": _exact_match, "f1": _f1_of_words}


# -- correlations --------------------------------------------------------------------------------------------


def _pearson(truth: NDArray[Any], guess: NDArray[Any]) -> Statistic:
    """r of every resample from five sums, which are one matrix product."""
    import numpy as np

    if np.ptp(truth) == 0 or np.ptp(guess) == 0:
        return lambda counts: np.zeros(len(counts))
    # Standardised, so that the sums of squares lose no digits.
    x, y = ((values - values.mean()) / values.std() for values in (truth, guess))
    columns = np.stack([x, y, x * x, y * y, x * y], axis=1)

    def of(counts: NDArray[Any]) -> Array:
        size = counts.shape[1]
        of_x, of_y, xx, yy, xy = (counts.astype(np.float64) @ columns).T
        spreads = (xx - of_x**2 / size, yy - of_y**2 / size)
        # A resample in which either side is constant leaves rounding here, where 0 is meant.
        defined = (spreads[0] > 1e-9) & (spreads[1] > 1e-9)
        return _divide(xy - of_x * of_y / size, np.where(defined, np.sqrt(np.abs(spreads[0] * spreads[1])), 0.0))

    return of


def _spearman(truth: NDArray[Any], guess: NDArray[Any]) -> Statistic:
    """Pearson's r of ranks, taken within each resample."""
    import numpy as np

    rankers = _ranker(truth), _ranker(guess)

    def of(counts: NDArray[Any]) -> Array:
        middle = (counts.shape[1] + 1) / 2
        x, y = (ranks(counts) - middle for ranks in rankers)
        weighted = counts * x
        spread = np.einsum("ij,ij->i", weighted, x) * np.einsum("ij,ij,ij->i", counts, y, y)
        return _divide(np.einsum("ij,ij->i", weighted, y), np.sqrt(spread))

    return of


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
