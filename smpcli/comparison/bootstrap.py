"""How sure a difference is: paired bootstrap over dev examples, from the predictions that runs keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from smpcli.comparison.resampled_metrics import statistic
from smpcli.runs.rundir import RunDir, RunError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from smpcli.comparison.resampled_metrics import Array, Statistic

RESAMPLES = 2000
LEVEL = 0.95
_SEED = 0
# Draws held at a time: 4 million are some 50 MB.
_DRAWS = 2**22


class DevPredictions:
    """What a run predicted on one dev set; `statistic` gives its metric of any resample."""

    def __init__(self, labels: Sequence[Any], statistic: Statistic) -> None:
        self.labels = list(labels)
        self.statistic = statistic


def dev_predictions(run: RunDir, metric: str) -> DevPredictions | None:
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
        found = statistic(name, rows)
    except (KeyError, TypeError, ValueError):
        return None
    if found is None or not math.isclose(
        float(found(np.ones((1, len(rows)), np.float32))[0]), reported, abs_tol=1e-5
    ):
        return None
    return DevPredictions([row.get("label") for row in rows], found)


def one_class(run: RunDir, metric: str) -> bool:
    """Whether the run predicts the same for every example of the metric's dev set, by the predictions kept."""
    from smpcli.tasks.metrics import predicts_one

    try:
        _, rows = _split(metric, run.predictions)
    except RunError:
        return False
    guesses = [row.get("prediction") for row in rows]
    return None not in guesses and predicts_one(guesses)


def intervals(
    pairs: Sequence[tuple[Sequence[DevPredictions], Sequence[DevPredictions]]], resamples: int = RESAMPLES
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
    by_size: dict[int, dict[int, DevPredictions]] = {}
    for pair, use in zip(pairs, usable, strict=True):
        for one in (*pair[0], *pair[1]) if use else ():
            by_size.setdefault(len(one.labels), {})[id(one)] = one
    values: dict[int, Array] = {}
    for size, predictions in by_size.items():
        parts: dict[int, list[Array]] = {key: [] for key in predictions}
        for counts in _resamples(size, resamples):
            for key, one in predictions.items():
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
    """A metric's name and rows: "accuracy_mismatched" is the accuracy on the dev set "mismatched"; else the first."""
    for split in splits:
        if metric.endswith(f"_{split}"):
            return metric.removesuffix(f"_{split}"), splits[split]
    return metric, next(iter(splits.values()), [])
