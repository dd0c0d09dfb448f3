"""Evaluation: the pruned model as it stands, once over the dev examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smpcli.encoding.batches import Encoded, evaluation_order
from smpcli.encoding.windows import EncodedSpans, answers_from, answers_of
from smpcli.tasks.task import metric_name

EVALUATION_BATCH = 64


@torch.no_grad()
def logits_of(model: nn.Module, encoded: Encoded, device: torch.device, limit: int | None = None) -> Tensor:
    """Logits (examples, labels) on the CPU, in the order of the examples (the shortest `limit` if given)."""
    training = model.training
    model.eval()
    batches = evaluation_order(encoded, EVALUATION_BATCH)
    if limit is not None:
        batches = batches[: -(-limit // EVALUATION_BATCH)]
    parts, order = [], []
    for indices in batches:
        inputs, _ = encoded.collate(indices)
        parts.append(model(**{name: tensor.to(device) for name, tensor in inputs.items()}).float().cpu())
        order += indices
    model.train(training)
    logits = torch.cat(parts)
    return logits[torch.tensor(order).argsort()]


#: Class ids, numbers, or texts of answers, in the order of the examples.
Predictions = list[int] | list[float] | list[str]


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


def predictions_of(logits: Tensor, regression: bool) -> list[int] | list[float]:
    """Labels (or values) from logits (examples, labels)."""
    values: list[int] | list[float] = (logits[:, 0] if regression else logits.argmax(1)).tolist()
    return values


def evaluate(
    model: nn.Module, dev: dict[str, Encoded], metrics: list[str], regression: bool, device: torch.device
) -> Evaluation:
    """The task's metrics on each dev split; those of a split not just called "dev" end in its name."""
    return _measured(
        {
            split: answers_of(model, encoded, device)
            if isinstance(encoded, EncodedSpans)
            else predictions_of(logits_of(model, encoded, device), regression)
            for split, encoded in dev.items()
        },
        dev,
        metrics,
    )


def evaluate_logits(
    logits: dict[str, Tensor], dev: dict[str, Encoded], metrics: list[str], regression: bool
) -> Evaluation:
    """The same from each dev split's logits: (examples, labels), or (windows, 2, length) of spans."""
    return _measured(
        {
            split: answers_from([(range(len(encoded)), logits[split])], encoded)
            if isinstance(encoded, EncodedSpans)
            else predictions_of(logits[split], regression)
            for split, encoded in dev.items()
        },
        dev,
        metrics,
    )


def _measured(predictions: dict[str, Predictions], dev: dict[str, Encoded], metrics: list[str]) -> Evaluation:
    from smpcli.tasks.metrics import compute, compute_answers

    values: dict[str, float] = {}
    for split, encoded in dev.items():
        guesses: Any = predictions[split]
        if isinstance(encoded, EncodedSpans):
            found = compute_answers(metrics, guesses, encoded.questions.texts)
        else:
            found = compute(metrics, guesses, encoded.labels.tolist())
        values |= {metric_name(name, split): value for name, value in found.items()}
    return Evaluation(values, predictions)


def prediction_rows(encoded: Encoded, predictions: Predictions) -> list[dict[str, Any]]:
    """What predictions.jsonl says of each example: its label (of a question: all its answers) and the prediction."""
    if isinstance(encoded, EncodedSpans):
        asked = encoded.questions
        return [
            {"id": name, "label": answers, "prediction": answer}
            for name, answers, answer in zip(asked.ids, asked.texts, predictions, strict=True)
        ]
    return [
        {"label": label, "prediction": prediction}
        for label, prediction in zip(encoded.labels.tolist(), predictions, strict=True)
    ]
