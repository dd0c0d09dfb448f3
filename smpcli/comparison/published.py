"""Figures that others published, to stand beside ours and never to be mistaken for them (recipes/published.yaml)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from smpcli.comparison.beside import Beside
from smpcli.paths import RECIPES
from smpcli.yaml_text import read_yaml

FILE = RECIPES / "published.yaml"
#: In place of a method: a small model that nothing was pruned of, which one would take instead.
MODEL = "model"


@dataclass(frozen=True)
class PublishedRow(Beside):
    """One published figure. epochs: of pruning and training, None where the source is silent.

    name: what the source calls the method, e.g. "SMP-S" for our smp with allocation S, or the model. Task "glue" is a
    mean over tasks, for which we have no task. method: `MODEL` of a model as it is.
    """

    epochs: int | None

    mark: ClassVar[str] = "†"
    origin: ClassVar[str] = "published"

    @property
    def details(self) -> tuple[str, ...]:
        if self.method == MODEL:
            return ("small model",)
        return ("KD",) * self.kd + ((f"{self.epochs} epochs",) if self.epochs else ())

    @property
    def note(self) -> str:
        what = "for small models, unpruned" if self.method == MODEL else f"for {self.model}"
        return f"{self.mark} published {what}, not run here: {self.source}"


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
        and (sparsity is None or (row.sparsity is not None and math.isclose(sparsity, row.sparsity, abs_tol=1e-6)))
        and model in (None, row.model)
        and kd in (None, row.kd)
    ]


@cache
def _all() -> tuple[PublishedRow, ...]:
    return tuple(
        PublishedRow(
            task=task,
            model=entry["model"],
            method=entry.get("method", MODEL),
            sparsity=entry.get("sparsity"),
            metric=metric,
            value=round(value / 100, 6),
            name=entry["name"],
            kd=entry.get("kd", False),
            epochs=entry.get("epochs"),
            source=study["source"],
        )
        for study in read_yaml(FILE)["studies"]
        for entry in study["entries"]
        for task, figures in entry["figures"].items()
        for metric, value in figures.items()
    )
