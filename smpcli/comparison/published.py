"""Figures that others published, to stand beside ours and never to be mistaken for them (recipes/published.yaml)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from smpcli.paths import RECIPES
from smpcli.yaml_text import read_yaml

FILE = RECIPES / "published.yaml"


@dataclass(frozen=True)
class PublishedRow:
    """One published figure. value: in the metric's own unit, like ours (0.857, not 85.7); kd: with distillation.

    name: what the source calls the method, e.g. "SMP-S" for our smp with allocation S. Task "glue" is a mean over
    tasks, for which we have no task.
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


def published(
    task: str | None = None,
    method: str | None = None,
    sparsity: float | None = None,
    *,
    model: str | None = None,
    kd: bool | None = None,
) -> list[PublishedRow]:
    """The published figures that have all of what is named (None: any), in the order of the file."""
    return [
        row
        for row in _all()
        if task in (None, row.task)
        and method in (None, row.method)
        and (sparsity is None or math.isclose(sparsity, row.sparsity, abs_tol=1e-6))
        and model in (None, row.model)
        and kd in (None, row.kd)
    ]


@cache
def _all() -> tuple[PublishedRow, ...]:
    content = read_yaml(FILE)
    return tuple(
        PublishedRow(
            task=task,
            model=entry["model"],
            method=entry["method"],
            sparsity=entry["sparsity"],
            kd=entry["kd"],
            metric=metric,
            value=round(value / 100, 6),
            source=content["source"],
            name=entry["name"],
        )
        for entry in content["entries"]
        for task, figures in entry["figures"].items()
        for metric, value in figures.items()
    )
