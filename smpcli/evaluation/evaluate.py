"""Evaluation: the pruned model as it stands, once over the dev examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smpcli.encoding.batches import Encoded, LogitParts, logits_in_parts
from smpcli.kinds import KINDS
from smpcli.kinds.kind import Predictions
from smpcli.tasks.task import metric_name


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the dev set and the prediction of every example, by split."""

    metrics: dict[str, float]
    predictions: dict[str, Predictions]

    def warnings(self, labels: Sequence[str]) -> list[str]:
        """What is odd about the predictions: dev sets of whose examples all got the same. labels: class names."""
        from smpcli.tasks.metrics import one_class

        return [
            f"dev set '{split}': {said}"
            for split, predictions in self.predictions.items()
            if (said := one_class(predictions, labels))
        ]


def evaluate(
    model: nn.Module, dev: dict[str, Encoded], metrics: list[str], kind: str, device: torch.device
) -> Evaluation:
    """The task's metrics on each dev split; those of a split not just called "dev" end in its name."""
    parts = {split: logits_in_parts(model, encoded, device) for split, encoded in dev.items()}
    return _measured(parts, dev, metrics, kind)


def evaluate_logits(logits: dict[str, Tensor], dev: dict[str, Encoded], metrics: list[str], kind: str) -> Evaluation:
    """The same from each dev split's logits, in the order of the examples."""
    return _measured({split: [(range(len(found)), found)] for split, found in logits.items()}, dev, metrics, kind)


def _measured(parts: Mapping[str, LogitParts], dev: dict[str, Encoded], metrics: list[str], kind: str) -> Evaluation:
    predictions = {split: KINDS[kind].predictions(parts[split], encoded) for split, encoded in dev.items()}
    values: dict[str, float] = {}
    for split, encoded in dev.items():
        found = KINDS[kind].measure(metrics, predictions[split], encoded.references)
        values |= {metric_name(name, split): value for name, value in found.items()}
    return Evaluation(values, predictions)


def prediction_rows(encoded: Encoded, predictions: Predictions) -> list[dict[str, Any]]:
    """What predictions.jsonl says of each example: its label (of a question: all its answers) and the prediction."""
    names = [{}] * len(predictions) if encoded.ids is None else [{"id": name} for name in encoded.ids]
    return [
        {**name, "label": label, "prediction": prediction}
        for name, label, prediction in zip(names, encoded.references, predictions, strict=True)
    ]
