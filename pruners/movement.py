"""Movement pruning (hard, top-k)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pruners.base import setting
from pruners.scored import ScoredPruner, ScoredSettings, structure_setting


@dataclass
class MovementSettings(ScoredSettings):
    """init=zero is the paper's form; in runs of minutes it stays at chance, so it is not the default."""

    init: Literal["zero", "magnitude", "activation"] = setting(
        "activation", "first scores: zero (the paper), |W|, or |W| times the input's norm"
    )
    weights_lr: float = setting(3e-5, "peak learning rate of the weights", 0)
    structure: float | Literal["auto"] = structure_setting("auto")


class Movement(ScoredPruner):
    """Movement pruning: scores and weights are trained, the highest scores of each matrix stay."""

    name = "movement"
    title = "Movement"
    paper = "https://arxiv.org/abs/2005.07683"
    trains_weights = True
    Settings: ClassVar[type[MovementSettings]] = MovementSettings
