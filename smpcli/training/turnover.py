"""How masks move during training: the share of kept weights that weren't kept at the evaluation before."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pruners.masks.layer import MaskedLayer


class Turnover:
    """Remembers the masks from one evaluation to the next."""

    def __init__(self, layers: Sequence[MaskedLayer]) -> None:
        self.layers = layers
        self.before: list[Tensor] = []

    def since_last(self) -> dict[str, float]:
        """{"turnover": kept now and pruned at the last call / kept now}; empty at the first call, and without masks.

        Weights that merely left, as the density sank, don't count: at a constant density as many leave as come.
        """
        now = [layer.mask.clone() for layer in self.layers]
        before, self.before = self.before, now
        kept = sum(int(mask.sum()) for mask in now)
        if not before or not kept:
            return {}
        came = sum(int((mask & ~old).sum()) for mask, old in zip(now, before, strict=True))
        return {"turnover": came / kept}
