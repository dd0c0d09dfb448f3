"""Movement pruning (hard, top-k)."""

from __future__ import annotations

from pruners.scored import ScoredPruner, ScoredSettings


class Movement(ScoredPruner):
    """Movement pruning: scores and weights are trained, the highest scores of each matrix stay."""

    name = "movement"
    title = "Movement"
    paper = "https://arxiv.org/abs/2005.07683"
    trains_weights = True
    Settings = ScoredSettings
