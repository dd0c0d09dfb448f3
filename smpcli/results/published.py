"""Figures that others published, to stand beside ours and never to be mistaken for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SMP_PAPER = "Jiang et al. 2023, arXiv 2210.06210"


@dataclass(frozen=True)
class PublishedRow:
    """One published figure. value: in the metric's own unit, like ours (0.857, not 85.7); kd: with distillation.

    name: what the source calls the method, e.g. "SMP-S" for our smp with allocation S.
    """

    task: str
    model: str
    method: str
    sparsity: float
    kd: bool
    metric: str
    value: float
    source: str
    name: str


def published(task: str | None = None, method: str | None = None) -> list[PublishedRow]:
    """The published figures of a task and a method (None: of all)."""
    return [row for row in _all() if task in (None, row.task) and method in (None, row.method)]


_NAMES = {
    "dense": "BERT",
    "smp": "SMP-S",
    "soft-movement": "Soft movement",
    "movement": "Movement",
    "magnitude": "Magnitude",
}
# BERT-base: (method, sparsity, KD) -> MNLI matched accuracy, QQP accuracy, SQuAD F1, in per cent.
_LARGE = {
    ("dense", 0.0, False): (84.5, 91.4, 88.1),
    ("smp", 0.5, True): (85.7, 91.7, 89.8),
    ("smp", 0.9, True): (83.7, 91.0, 87.2),
    ("smp", 0.97, True): (81.8, 90.5, 84.1),
    ("smp", 0.9, False): (82.5, 90.8, 84.6),
    ("smp", 0.97, False): (80.9, 90.3, 81.4),
    ("soft-movement", 0.9, True): (81.2, 90.2, 84.9),
    ("soft-movement", 0.97, True): (79.5, 89.1, 82.3),
    ("movement", 0.9, True): (80.1, 89.7, 84.3),
    ("movement", 0.97, True): (76.5, 86.1, 78.0),
    ("magnitude", 0.9, True): (78.3, 79.8, 80.1),
}
# BERT-base, SMP at 20 % sparsity without KD.
_GLUE = {
    ("mnli", "accuracy"): 85.0,
    ("sst2", "accuracy"): 92.9,
    ("mrpc", "accuracy"): 87.0,
    ("cola", "matthews"): 61.5,
    ("qnli", "accuracy"): 91.5,
    ("qqp", "accuracy"): 91.4,
    ("rte", "accuracy"): 72.3,
    ("stsb", "pearson"): 89.6,
}


def _all() -> Iterator[PublishedRow]:
    model = "bert-base-uncased"
    for (method, sparsity, kd), values in _LARGE.items():
        for (task, metric), value in zip(
            (("mnli", "accuracy"), ("qqp", "accuracy"), ("squad", "f1")), values, strict=True
        ):
            yield PublishedRow(
                task, model, method, sparsity, kd, metric, round(value / 100, 6), SMP_PAPER, _NAMES[method]
            )
    for (task, metric), value in _GLUE.items():
        yield PublishedRow(task, model, "smp", 0.2, False, metric, round(value / 100, 6), SMP_PAPER, _NAMES["smp"])
