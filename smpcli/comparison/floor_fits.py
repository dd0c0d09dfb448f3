"""What stands behind a floor: features without a transformer's training, and logistic regression (of numbers, ridge).

All is fitted on training rows alone: C is the best on a tenth of them, chosen by a hash of the text, and with it all
are fitted. Dev rows are only measured on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from smpcli.errors import UserError
from smpcli.tasks.examples import Examples
from smpcli.tasks.metrics import compute
from smpcli.tasks.task import metric_name

if TYPE_CHECKING:
    from smpcli.runs.rundir import RunDir
    from smpcli.settings import Settings
    from smpcli.tasks.data import TaskData

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
_HELD_OUT = 0.1
#: Of rows, one each: texts, or vectors.
Features = Callable[[Examples], np.ndarray]


@dataclass(frozen=True)
class Fitted:
    """metrics: of every dev set, as a result names them; c: the strength that was chosen; head: "LR" or "ridge"."""

    metrics: dict[str, float]
    c: float
    head: str


def fit_words(settings: Settings, data: TaskData) -> Fitted:
    """TF-IDF of words and of pairs of neighbouring words; the two texts of a row are one."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    head, make = _head(settings)
    try:
        return _fit(
            settings,
            data,
            head,
            lambda c: make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), make(c)),
            lambda rows: np.array(list(rows.whole_texts()), dtype=object),
        )
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        raise UserError("--floor finds no word of two letters in the training texts", "leave it out") from error


def fit_vectors(settings: Settings, data: TaskData, run: RunDir) -> Fitted:
    """The run's own model before it was pruned, frozen. Raises `UserError` where it is another one now."""
    return _fit(settings, data, *_head(settings), mean_vectors(settings, data.labels, run))


def mean_vectors(settings: Settings, labels: list[str], run: RunDir) -> Features:
    """The mean over a text's tokens of the stock model's last hidden states: float32 (rows, hidden)."""
    from torch import Tensor, nn

    from smpcli.device import make_accelerator
    from smpcli.encoding.batches import logits_in_parts
    from smpcli.evaluation.restore import require_base
    from smpcli.kinds.kind import in_order
    from smpcli.kinds.rows import encode_rows
    from smpcli.modeling.backbone import load_tokenizer
    from smpcli.modeling.build import build_model
    from smpcli.modeling.reading import read_alike

    tokenizer = load_tokenizer(settings.run.model)
    model = build_model(settings.run.spec, settings.task, labels, tokenizer)
    read_alike(model, tokenizer, run.result.data.special_tokens)
    require_base(model, run.result.model.digest, settings.run.model, run.path)
    device = make_accelerator("auto").device
    base = model.backbone.base_model.to(device).eval()

    class MeanPooled(nn.Module):
        def forward(self, **inputs: Tensor) -> Tensor:
            hidden: Tensor = base(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            return (hidden * mask).sum(1) / mask.sum(1)

    def vectors(rows: Examples) -> np.ndarray:
        found: np.ndarray = in_order(
            logits_in_parts(MeanPooled(), encode_rows(tokenizer, rows, settings), device)
        ).numpy()
        return found

    return vectors


def _head(settings: Settings) -> tuple[str, Callable[[float], Any]]:
    """Its name, and one of it for a C."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if settings.task.traits.labels == "numbers":
        return "ridge", lambda c: Ridge(alpha=1 / c)
    return "LR", lambda c: LogisticRegression(C=c, max_iter=1000)


def _fit(settings: Settings, data: TaskData, head: str, make: Callable[[float], Any], features: Features) -> Fitted:
    """make: an estimator for a C, of what `features` gives."""
    train, names = data.train, settings.task.metrics
    assert isinstance(train, Examples)
    given, labels = features(train), np.array(train.labels)
    held = held_out(train)

    def score(c: float) -> float:
        guess = make(c).fit(given[~held], labels[~held]).predict(given[held])
        return compute(names[:1], guess.tolist(), labels[held].tolist())[names[0]]

    with warnings.catch_warnings():
        # A fit that stops after 1,000 steps is as good as any.
        warnings.simplefilter("ignore")
        # Where that tenth is nothing, or takes a class away, C is the library's own.
        enough = held.any() and not held.all() and (head == "ridge" or set(labels[~held]) == set(labels))
        c = max(STRENGTHS, key=score) if enough else 1.0
        chosen = make(c).fit(given, labels)
    metrics: dict[str, float] = {}
    for split, rows in data.dev.items():
        assert isinstance(rows, Examples)
        found = compute(names, chosen.predict(features(rows)).tolist(), rows.labels)
        metrics |= {metric_name(name, split): value for name, value in found.items()}
    return Fitted(metrics, c, head)


def held_out(rows: Examples) -> np.ndarray:
    """Which rows C is chosen on: about a tenth of the texts, repeats on one side, by other bits than dev sets are."""
    return np.array([int.from_bytes(key[4:8], "big") < _HELD_OUT * 2**32 for key in rows.split_keys()])
