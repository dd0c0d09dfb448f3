"""A figure that stands beside runs in every form of a comparison, marked, and never one of theirs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Beside(ABC):
    """value: in the metric's own unit, like ours (0.857, not 85.7). sparsity: None where nothing is pruned of it.

    name: what its source calls it; method: as a run's, by which rows can be chosen; model: "" where there is none;
    kd: with distillation; source: where it was published, "" of what was found here.
    """

    task: str
    model: str
    method: str
    sparsity: float | None
    metric: str
    value: float
    name: str
    kd: bool
    source: str

    #: Stands beside its name and before its note.
    mark: ClassVar[str]
    #: What it is, in a word.
    origin: ClassVar[str]

    @property
    @abstractmethod
    def details(self) -> tuple[str, ...]:
        """What a reader must know beside its name."""

    @property
    @abstractmethod
    def note(self) -> str:
        """What stands below a table that has it."""

    @property
    def label(self) -> str:
        """As a narrow table calls it."""
        return ", ".join([self.name, *self.details]).replace(", KD", " + KD")

    @property
    def about(self) -> str:
        """What a wide table adds to its name."""
        return ", ".join(filter(None, [self.model, *self.details]))

    @property
    def remaining(self) -> float | None:
        """Fraction of the weights that is left."""
        return None if self.sparsity is None else round(1 - self.sparsity, 6)

    @property
    def per_cent(self) -> str:
        """With as many decimals as were published, one at least: 91.4 doesn't claim to be 91.40."""
        shown = f"{round(self.value * 100, 6):.10g}"
        return shown if "." in shown else f"{shown}.0"


@dataclass(frozen=True)
class FloorRow(Beside):
    """A figure that takes no transformer's training, on the same data as runs. c: inverse strength of the penalty.

    model_digest: "" where no model is in it; built_in: as of a run's row.
    """

    c: float
    data_digest: str
    model_digest: str
    built_in: bool

    mark: ClassVar[str] = "§"
    origin: ClassVar[str] = "floor"

    @property
    def details(self) -> tuple[str, ...]:
        return (f"C={self.c:g}",)

    @property
    def note(self) -> str:
        return (
            f"{self.mark} floor: logistic regression (of numbers ridge) on words and pairs, or on the stock model's "
            "mean-pooled vectors; fitted on training rows alone, C chosen on a tenth of them"
        )

    @property
    def per_cent(self) -> str:
        return f"{self.value * 100:.2f}"


def percent(fraction: float | None) -> str:
    """A share of the weights as tables show it; nothing where it means nothing."""
    return "" if fraction is None else f"{fraction * 100:.4g} %"
