"""What a method may decide, each with a sensible default, and nothing else.

A method is one class. It never sees a tokenizer, a file or the command line; the training loop in
`smpcli.training` calls it as the method section of a paper would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from torch import Tensor

from pruners.errors import SettingError
from pruners.masks.allocation import uniform_counts
from pruners.masks.layer import LayerStatistics, MaskedLayer
from pruners.masks.stack import elementwise, highest, scores_of
from pruners.schedule import DENSITIES

#: Kept weights of each layer: a list, or where the host needn't know them a vector (layers,) float64 on their device.
Counts = list[int] | Tensor


def setting(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    """A method's setting: a dataclass field with a help text and, for numbers, a closed range."""
    if not help:
        raise ValueError("a setting needs a help text")
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass
class PrunerSettings:
    """What every method has; a method adds its own in a subclass. They are recipe keys and --set keys."""

    schedule: Literal["cubic", "linear", "exp"] = setting("cubic", "shape of the way from dense to the final density")
    ramp_start: float = setting(0.0, "fraction of the run that stays dense", 0, 1)
    ramp_end: float = setting(0.6, "fraction of the run at which the final density is reached", 0, 1)
    weights_lr: float = setting(1e-4, "peak learning rate of the weights, where a method trains them", 0)
    weight_decay: float = setting(0.01, "AdamW decay of trained weights (never of scores)", 0)
    beta1: float = setting(0.9, "AdamW's decay of the mean of gradients", 0, 0.9999)
    beta2: float = setting(0.999, "AdamW's decay of the mean of squared gradients", 0, 0.999999)
    warmup: float = setting(0.0, "fraction of the run over which learning rates rise from 0", 0, 1)

    def __post_init__(self) -> None:
        for spec in fields(self):
            value, low, high = getattr(self, spec.name), spec.metadata.get("low"), spec.metadata.get("high")
            if isinstance(value, str):
                continue
            # `not (a <= b)` instead of `a > b`: a NaN must fail too.
            if low is not None and not value >= low:
                raise SettingError(spec.name, f"must be at least {low}, not {value}")
            if high is not None and not value <= high:
                raise SettingError(spec.name, f"must be at most {high}, not {value}")
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingError(spec.name, f"must be a finite number, not {value}")
        if self.ramp_start > self.ramp_end:
            raise SettingError("ramp_start", f"must be at most ramp_end ({self.ramp_end}), not {self.ramp_start}")


class Pruner:
    """A pruning method. Subclass it, set the class attributes, override what your method decides.

    The first line of the docstring is the method's one-line description.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str] = ""
    #: What the loop trains: the scores of the masked layers, all weights of the model (head included), both, or
    #: neither: then a run has no steps, unless its head is to be trained.
    trains_scores: ClassVar[bool] = False
    trains_weights: ClassVar[bool] = False
    #: False only for a method that leaves the model dense.
    prunes: ClassVar[bool] = True

    Settings: ClassVar[type[PrunerSettings]] = PrunerSettings

    def __init__(self, settings: PrunerSettings | None = None) -> None:
        self.settings: Any = settings if settings is not None else self.Settings()

    # -- before training ---------------------------------------------------------------------------------

    @property
    def own_selection(self) -> bool:
        """True where `select` is overridden."""
        return type(self).select is not Pruner.select

    @property
    def needs_statistics(self) -> bool:
        """True when `start` needs the input statistics of a few batches."""
        return False

    def check(self, layers: Sequence[MaskedLayer]) -> None:
        """Raise `PrunerError` where these layers can't be pruned so; before memory is asked for, and in a dry run."""

    def stacks(self, layers: Sequence[MaskedLayer]) -> bool:
        """Whether an accelerator may compute the layers of one size together (`pruners/masks/stack.py`)."""
        return True

    def start(self, layer: MaskedLayer, statistics: LayerStatistics | None) -> Tensor | None:
        """First scores of a layer, shape (out, in), or None for a method that learns no scores.

        Asked once a layer, of a method that learns scores or needs statistics.
        """
        return None

    def begin(self, layers: Sequence[MaskedLayer], final_density: float) -> None:
        """Told once, before the first density and mask: the masked layers, and the density that the run ends at.

        A dry run has no layers. Raise `PrunerError` where the settings don't fit that density.
        """

    # -- the schedule, as functions of progress t/T in [0, 1] --------------------------------------------

    def density(self, progress: float, final: float) -> float:
        """Fraction of prunable weights that remain at `progress` (SMP eq. 5 with N = ramp_end of the run)."""
        shape = DENSITIES[self.settings.schedule]
        return shape(progress, final, self.settings.ramp_start, self.settings.ramp_end)

    def penalty_weight(self, progress: float) -> float:
        """lambda(t), the weight of the penalty; 0: no penalty."""
        return 0.0

    # -- one mask refresh --------------------------------------------------------------------------------

    @elementwise
    def score(self, layer: MaskedLayer) -> Tensor:
        """What is ranked, shape (out, in): the learned scores, or |W| for a method without them."""
        return layer.score() if layer.scores is not None else layer.weight.detach().abs()

    def allocate(self, layers: Sequence[MaskedLayer], kept: int) -> Counts:
        """Kept weights of each layer; they must sum to `kept`. Default: the same density everywhere."""
        return uniform_counts([layer.size for layer in layers], kept)

    @elementwise
    def restrict(self, layers: Sequence[MaskedLayer], counts: Any, density: float) -> Counts:
        """A last word on `counts`, a list, between `allocate` and `select`; their sum must stay. Default: none."""
        found: Counts = counts
        return found

    @elementwise
    def select(self, layer: MaskedLayer, kept: Any) -> Tensor:
        """The mask of a layer with exactly `kept` ones, bool (out, in). Default: the highest scores."""
        return highest(scores_of(self, layer), kept)

    @elementwise
    def part(self, layer: MaskedLayer) -> tuple[Tensor, int] | None:
        """After `select`: the rows (0) or columns (1), by index, that training computes with for now; None: all.

        Asked only where W is frozen. The mask must be empty elsewhere, and whatever reads or writes them must leave
        out the same.
        """
        return None

    # -- one training step -------------------------------------------------------------------------------

    @elementwise
    def gates(self, layer: MaskedLayer) -> tuple[Tensor, Tensor] | None:
        """Gates z in [0, 1] that a method draws for this step, and their slope dz/dS, both (out, in).

        Then W' = W * z in this step's forward pass, and dL/dS = dL/dW' * W * dz/dS, dL/dW = dL/dW' * z. Evaluation
        and the finished model have the mask. None (default): the mask here, too, and straight-through (dz/dS = 1).
        """
        return None

    # -- the gradient ------------------------------------------------------------------------------------

    def running(self, layer: MaskedLayer) -> dict[str, Tensor]:
        """First values of what is kept of a layer's gradients, by name, each (out, in) or (out, in, …) on W's device.

        From then on it is `layer.running`, which checkpoints hold; only `observe` changes it, in place.
        """
        return {}

    @property
    def observes(self) -> bool:
        """True where `observe` is overridden."""
        return type(self).observe is not Pruner.observe

    @elementwise
    def observe(self, layer: MaskedLayer, gradient: Tensor, step: int) -> None:
        """Told dL/dW' of each step, (out, in), before anything changes it or clips it; leave it as it is.

        It is that of the whole batch, the same in every process, and 0 for a matrix that no example has reached.
        step: of the run, from 0.
        """

    @elementwise
    def add_penalty_gradient(self, layer: MaskedLayer, gradient: Tensor, weight: float, layers: int) -> None:
        """Add `weight` times the penalty's gradient with respect to the layer's scores to `gradient` in place.

        `gradient` (out, in) already holds the loss's own; `layers` is the number of masked matrices.
        """

    # -- after training ----------------------------------------------------------------------------------

    def report(self, layers: Sequence[MaskedLayer]) -> dict[str, float]:
        """Figures worth keeping beside the result, e.g. the threshold that a soft method ended at."""
        return {}
