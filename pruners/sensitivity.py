"""What methods share that train weights and rank them by what they keep of gradients, such as |W * dL/dW|."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from pruners.base import Counts, Pruner, PrunerSettings, setting
from pruners.masks.layer import MaskedLayer
from pruners.masks.stacked_allocation import global_counts


def mask_every_setting(default: int) -> Any:
    """The setting `mask_every`, with a method's own default."""
    return setting(default, "steps from one choice of masks to the next; 1: masks are chosen in every step", 1)


@dataclass
class GradientSettings(PrunerSettings):
    """At least one gradient must be known when weights are first removed, so the ramp has a width."""

    ramp_end: float = setting(0.6, "fraction of the run at which the final density is reached", 1e-6, 1)
    weights_lr: float = setting(5e-4, "peak learning rate of the weights", 0)
    scope: Literal["local", "global"] = setting(
        "global", "rank each matrix's weights among themselves (local), or those of all matrices together (global)"
    )
    mask_every: int = mask_every_setting(1)


@dataclass
class SensitivitySettings(GradientSettings):
    """Settings of the methods that rank by |W * dL/dW|."""

    regrow: bool = setting(
        False, "let a pruned weight count with the value it had, so that it may come back; else it counts as 0"
    )


class GradientPruner(Pruner):
    """A method that trains weights and ranks them by what it keeps of gradients."""

    trains_weights = True
    Settings: ClassVar[type[PrunerSettings]] = GradientSettings
    settings: GradientSettings

    def allocate(self, layers: Sequence[MaskedLayer], kept: int) -> Counts:
        return super().allocate(layers, kept) if self.settings.scope == "local" else global_counts(self, layers, kept)


class SensitivityPruner(GradientPruner):
    """A method that ranks weights by what their loss would cost, to first order, over many batches."""

    Settings: ClassVar[type[PrunerSettings]] = SensitivitySettings
    settings: SensitivitySettings

    def sensitivity(self, layer: MaskedLayer, gradient: Tensor) -> Tensor:
        """I = |W' * dL/dW'| of this step, or with `regrow` |W * dL/dW'|; the shape of `gradient`, new memory."""
        moved = gradient * layer.weight.detach()
        return (moved if self.settings.regrow else moved.mul_(layer.mask)).abs_()
