"""GLUE's metrics, by scikit-learn and SciPy, and SQuAD's, by torchmetrics; none ever comes out as NaN.

Each library is imported where a metric needs it: they take seconds, and accuracy, a mean, needs none. A new metric is
named in `traits.py`, too, and has a form for intervals in `comparison/resampled_metrics.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from smpcli.errors import UserError, one_line

# Numbers nearer to each other than this share of the largest are one: what padding and threads change in float32.
_SAME_NUMBER = 1e-6


def compute(
    metrics: list[str], predictions: Sequence[int] | Sequence[float], references: Sequence[int] | Sequence[float]
) -> dict[str, float]:
    """Each metric of the predictions, in the order asked for: accuracy and F1 in [0, 1], the others in [-1, 1].

    accuracy; f1 (binary: class 1 is the positive one); macro_f1 (unweighted mean over the classes seen);
    matthews (Matthews correlation); pearson, spearman (correlations). Where one is undefined it is 0.0: F1 without a
    positive prediction or reference, a correlation where either side is constant or there is one row only.
    `undefined` says when that is so. Raises `UserError` for predictions that are not finite or none at all,
    `ValueError` for lengths that differ.
    """
    guess, truth = np.asarray(predictions), np.asarray(references)
    if guess.shape != truth.shape or guess.ndim != 1:
        raise ValueError(f"need as many predictions as references: {guess.shape}, {truth.shape}")
    if not guess.size:
        raise UserError("the dev set has no examples: there is nothing to compute a metric on")
    if not np.isfinite(guess).all():
        raise UserError("the model predicts NaN or infinity: training diverged", "take a lower learning rate")
    with warnings.catch_warnings():
        # The libraries warn of one class only, and of constant or nearly constant numbers; `one_class` says that.
        warnings.simplefilter("ignore")
        return {name: _value(name, guess, truth) for name in metrics}


def _value(name: str, guess: np.ndarray, truth: np.ndarray) -> float:
    match name:
        case "accuracy":
            return float(np.mean(guess == truth))
        case "f1" | "macro_f1" | "matthews":
            return _of_classes(name, guess, truth)
        case "pearson" | "spearman":
            return _correlation(name, guess, truth)
        case _:
            raise ValueError(f"no metric '{name}'")


def _of_classes(name: str, guess: np.ndarray, truth: np.ndarray) -> float:
    from sklearn.metrics import f1_score, matthews_corrcoef

    if name == "matthews":
        return float(matthews_corrcoef(truth, guess))
    average = "binary" if name == "f1" else "macro"
    return float(f1_score(truth, guess, average=average, pos_label=1, zero_division=0.0))


def undefined(metrics: Sequence[str], references: Sequence[int] | Sequence[float]) -> str | None:
    """Which metrics say nothing on these references, and why; None where all do."""
    if len(set(references)) > 1:
        return None
    blind = [name for name in metrics if name != "accuracy"]
    what = f"where {', '.join(blind)} can't tell good from bad" if blind else "on which guessing it scores 1"
    return f"all {len(references):,} examples have the same label, {what}"


def predicts_one(predictions: Sequence[Any]) -> bool:
    """Whether all examples, two at least, got the same class, number (but for float32's noise) or answer."""
    if len(predictions) < 2:
        return False
    if all(isinstance(value, float) for value in predictions):
        return bool(max(predictions) - min(predictions) <= _SAME_NUMBER * max(map(abs, predictions)))
    return all(value == predictions[0] for value in predictions)


def one_class(predictions: Sequence[Any], labels: Sequence[str]) -> str | None:
    """Says of predictions that are all the same what they are; None of others. labels: class names in id order."""
    if not predicts_one(predictions):
        return None
    first, everywhere = predictions[0], f"for all {len(predictions):,} examples"
    if isinstance(first, float):
        return f"predicts one number only, {first:.4g}, {everywhere}: no correlation can be told"
    if isinstance(first, int):
        return f"predicts one class only, '{one_line(labels[first], 40)}', {everywhere}"
    return f"predicts one answer only, '{one_line(str(first), 40)}', {everywhere}"


def _correlation(name: str, guess: np.ndarray, truth: np.ndarray) -> float:
    from scipy.stats import pearsonr, spearmanr

    if np.ptp(guess) == 0 or np.ptp(truth) == 0:
        return 0.0
    # Of nearly constant input the value stands, unless it is NaN.
    value = (pearsonr if name == "pearson" else spearmanr)(guess.astype(float), truth.astype(float)).statistic
    return float(value) if np.isfinite(value) else 0.0


def compute_answers(
    metrics: list[str], predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> dict[str, float]:
    """SQuAD v1.1's metrics, in the order asked for, in [0, 1]: means of each question's best value over its answers.

    f1: of words; exact_match: of the whole text; both after lower-casing and without punctuation, articles and
    repeated spaces (Rajpurkar et al., 2016, arXiv 1606.05250). Raises `ValueError` for lengths that differ or are 0.
    """
    from torchmetrics.functional.text import squad

    if len(predictions) != len(answers) or not answers:
        raise ValueError(f"need as many predictions as answers, at least one: {len(predictions)}, {len(answers)}")
    found = squad(
        [{"id": str(row), "prediction_text": text} for row, text in enumerate(predictions)],
        [{"id": str(row), "answers": {"text": list(texts)}} for row, texts in enumerate(answers)],
    )
    return {name: found[name].item() / 100 for name in metrics}
