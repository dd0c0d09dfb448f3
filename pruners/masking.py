"""What methods share: masked matrices, the straight-through gradient, one mask refresh a step.

A masked layer stays the stock module that it was: while pruning runs, its `weight` parameter holds W' = W * M, and
W is kept beside it. So forward and backward are those of the dense model, with no graph over masks or scores: after
`backward()` the weight's gradient is dL/dW', and the straight-through rule (SMP eq. 3, movement pruning eq. 5) is
elementwise arithmetic on it. Evaluation and export see plain modules with the pruned weights in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pruners.allocation import kept_weights
from pruners.registry import PrunerError

if TYPE_CHECKING:
    from pruners.base import Pruner


@dataclass(frozen=True)
class LayerStatistics:
    """What a few batches through the dense model say about a layer.

    input_norm: root of the summed squares of each input feature, shape (in,).
    """

    input_norm: Tensor


class MaskedLayer:
    """One prunable matrix: the module that holds it, W, M and, where learned, the scores S.

    name: path in the model; kind: path inside its block (SMP-S groups by it); heads: of the block's attention (0: not
    known); W, M, S: (out, in).
    With factored scores, what is ranked is S_ij + r_i + c_j. `scores` always holds that sum: `row` (out, 1) and
    `column` (1, in) hold only what the last optimiser step adds to r and c, until `fold_factors` adds it to `scores`.
    """

    def __init__(self, name: str, kind: str, module: nn.Module, heads: int = 0) -> None:
        self.name = name
        self.heads = heads
        self.kind = kind
        self.module = module
        self.weight: Tensor = module.weight.detach().clone()  # type: ignore[operator]
        self.mask = torch.ones_like(self.weight, dtype=torch.bool)
        self.scores: nn.Parameter | None = None
        self.row: nn.Parameter | None = None
        self.column: nn.Parameter | None = None

    @property
    def effective(self) -> nn.Parameter:
        """The module's own parameter, which holds W' = W * M."""
        return self.module.weight  # type: ignore[return-value]

    def learn_scores(self, start: Tensor, factored: bool) -> None:
        """Attach trainable scores that begin at `start` (out, in); row and column scores begin at 0."""
        self.scores = nn.Parameter(start.to(self.weight))
        if factored:
            out, inputs = self.weight.shape
            self.row = nn.Parameter(self.weight.new_zeros(out, 1))
            self.column = nn.Parameter(self.weight.new_zeros(1, inputs))

    def learn_weight(self) -> None:
        """Make W itself a trained parameter."""
        self.weight = nn.Parameter(self.weight)

    def score(self) -> Tensor:
        """The learned scores as they are ranked, shape (out, in), detached; ValueError when none are learned."""
        if self.scores is None:
            raise ValueError(f"{self.name} learns no scores")
        return self.scores.detach()

    def score_parameters(self) -> list[nn.Parameter]:
        return [part for part in (self.scores, self.row, self.column) if part is not None]

    def set_mask(self, mask: Tensor) -> None:
        """Use `mask` from now on: W' = W * M is written into the module."""
        self.mask = mask
        torch.mul(self.weight.detach(), mask, out=self.effective.data)


def attach(pruner: Pruner, layers: Sequence[MaskedLayer], statistics: dict[str, LayerStatistics]) -> None:
    """Give each layer what the method trains: first scores, trainable weights."""
    for layer in layers:
        layer.effective.requires_grad_(True)
        if pruner.trains_scores:
            start = pruner.start(layer, statistics.get(layer.name))
            if start is None:
                raise ValueError(f"{pruner.name} trains scores, so its start() must return them")
            layer.learn_scores(start, bool(getattr(pruner.settings, "factored", False)))
        if pruner.trains_weights:
            layer.learn_weight()


def refresh(pruner: Pruner, layers: Sequence[MaskedLayer], density: float) -> None:
    """Choose every mask anew, so that int(density * prunable) weights remain, and write W' into the modules."""
    kept = kept_weights(density, sum(layer.weight.numel() for layer in layers))
    counts = pruner.restrict(layers, pruner.allocate(layers, kept), density)
    if sum(counts) != kept:
        raise PrunerError(f"method '{pruner.name}' allocates {sum(counts):,} weights where {kept:,} are to remain")
    for layer, count in zip(layers, counts, strict=True):
        mask = pruner.select(layer, count)
        # Our own selection is exact; a plugin's is counted.
        if pruner.own_selection and (mask.dtype != torch.bool or int(mask.sum()) != count):
            raise PrunerError(f"method '{pruner.name}' selects no bool mask of {count:,} ones for {layer.name}")
        layer.set_mask(mask)


def straight_through(pruner: Pruner, layers: Sequence[MaskedLayer], penalty_weight: float) -> None:
    """Turn dL/dW', which backward() left in the modules, into the gradients of scores and weights.

    dL/dS = dL/dW' * W (plus the penalty's, in closed form); dL/dr, dL/dc are its sums over a row, a column;
    dL/dW = dL/dW' * M for methods that train weights.
    """
    for layer in layers:
        gradient = layer.effective.grad
        if gradient is None:
            continue
        layer.effective.grad = None
        if isinstance(layer.weight, nn.Parameter):
            layer.weight.grad = gradient * layer.mask
        if layer.scores is not None:
            gradient *= layer.weight.detach()
            if penalty_weight:
                pruner.add_penalty_gradient(layer, gradient, penalty_weight, len(layers))
            layer.scores.grad = gradient
            if layer.row is not None and layer.column is not None:
                layer.row.grad = gradient.sum(1, keepdim=True)
                layer.column.grad = gradient.sum(0, keepdim=True)


@torch.no_grad()
def fold_factors(layers: Sequence[MaskedLayer]) -> None:
    """After an optimiser step: add what rows and columns gained to every score of theirs."""
    for layer in layers:
        if layer.scores is not None and layer.row is not None and layer.column is not None:
            layer.scores.add_(layer.row).add_(layer.column)
            layer.row.zero_()
            layer.column.zero_()


def kept(layers: Iterable[MaskedLayer]) -> int:
    """Number of weights that the masks keep."""
    return sum(int(layer.mask.sum()) for layer in layers)
