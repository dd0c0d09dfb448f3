"""Masks that stand: chosen anew only when the number of weights that remain changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pruners.base import Counts, Pruner
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import elementwise


class StandingPruner(Pruner):
    """A method whose masks stand for as long as its density does. Override `share`, not `allocate`.

    Nothing is remembered beside the masks themselves, so a run that is resumed goes on with those of its checkpoint.
    """

    _counts: Counts | None = None
    _kept = 0
    #: Whether this refresh leaves the masks as they are.
    stands = False

    @property
    def own_selection(self) -> bool:
        return type(self).select is not StandingPruner.select

    def begin(self, layers: Sequence[MaskedLayer], final_density: float) -> None:
        self._counts = None

    def share(self, layers: Sequence[MaskedLayer], kept: int) -> Counts:
        """Kept weights of each layer where masks are chosen anew; they must sum to `kept`."""
        return super().allocate(layers, kept)

    def allocate(self, layers: Sequence[MaskedLayer], kept: int) -> Counts:
        if self._counts is None:
            found: list[int] = torch.stack([layer.mask.sum() for layer in layers]).tolist()
            self._counts, self._kept = found, sum(found)
        self.stands = kept == self._kept
        if not self.stands:
            self._counts, self._kept = self.share(layers, kept), kept
        return self._counts

    @elementwise
    def select(self, layer: MaskedLayer, kept: Any) -> Tensor:
        return layer.mask if self.stands else super().select(layer, kept)
