"""Evaluation: the pruned model as it stands, once over the dev examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smpcli.training.batches import Encoded, evaluation_order

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


@dataclass(frozen=True)
class Evaluation:
    """Metrics of the dev set and the prediction of every example, by split."""

    metrics: dict[str, float]
    predictions: dict[str, list[int] | list[float]]


def predictions_of(logits: Tensor, regression: bool) -> list[int] | list[float]:
    """Labels (or values) from logits (examples, labels)."""
    values: list[int] | list[float] = (logits[:, 0] if regression else logits.argmax(1)).tolist()
    return values


def evaluate(
    model: nn.Module, dev: dict[str, Encoded], metrics: list[str], regression: bool, device: torch.device
) -> Evaluation:
    """The task's metrics on each dev split; a second split's names end in its name ("accuracy_mismatched")."""
    return evaluate_logits(
        {split: logits_of(model, encoded, device) for split, encoded in dev.items()}, dev, metrics, regression
    )


def evaluate_logits(
    logits: dict[str, Tensor], dev: dict[str, Encoded], metrics: list[str], regression: bool
) -> Evaluation:
    """The same from the logits (examples, labels) of each dev split."""
    from smpcli.tasks.metrics import compute

    values: dict[str, float] = {}
    predictions: dict[str, list[int] | list[float]] = {}
    for index, (split, encoded) in enumerate(dev.items()):
        predictions[split] = predictions_of(logits[split], regression)
        found = compute(metrics, predictions[split], encoded.labels.tolist())
        values |= {name if index == 0 else f"{name}_{split}": value for name, value in found.items()}
    return Evaluation(values, predictions)
