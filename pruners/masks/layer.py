"""One prunable matrix while pruning runs: W beside the module that holds W' = W * M, the mask and the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruners.masks.selection import apply_mask


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
        # The loaded tensor itself; W' gets memory of its own when the first mask is set.
        self.weight: Tensor = module.weight.detach()  # type: ignore[operator]
        #: Weights of one matrix, whether (out, in) or, in a `Stack`, a row.
        self.size = self.weight.numel()
        self.trains_weight = False
        #: The `Stacks` that this layer's tensors are views of, on an accelerator (`pruners/masks/stack.py`).
        self.stacks: Any = None
        self.mask = torch.ones_like(self.weight, dtype=torch.bool)
        #: All of the module's bias, which holds but a part of it in a narrow step.
        self.bias: Tensor | None = None
        #: The rows (0) or columns (1) that training computes with, by index; None: all. Masks are empty elsewhere.
        self.part: tuple[Tensor, int] | None = None
        #: Whether a trial has shown that the model computes with a part of this layer (`pruners/masks/trial.py`).
        self.narrows = False
        #: Drawn gates and their slope, where the method draws any (`Pruner.gates`).
        self.gates: tuple[Tensor, Tensor] | None = None
        #: What the method keeps of gradients (`Pruner.running`).
        self.running: dict[str, Tensor] = {}
        self.scores: Tensor | None = None
        self.row: Tensor | None = None
        self.column: Tensor | None = None

    @property
    def effective(self) -> nn.Parameter:
        """The module's own parameter, which holds W' = W * M."""
        return self.module.weight  # type: ignore[return-value]

    @property
    def held(self) -> Tensor:
        """The memory of W', (out, in), without a gradient's memory of it."""
        return self.effective.detach()

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
        self.trains_weight = True

    def score(self) -> Tensor:
        """The learned scores as they are ranked, shape (out, in), detached; ValueError when none are learned."""
        if self.scores is None:
            raise ValueError(f"{self.name} learns no scores")
        return self.scores.detach()

    def score_parameters(self) -> list[nn.Parameter]:
        """What an optimiser trains of it; nothing of a view, whose stack is trained (`stack.score_parameters`)."""
        return [part for part in (self.scores, self.row, self.column) if isinstance(part, nn.Parameter)]

    def set_mask(self, mask: Tensor, dtype: torch.dtype | None = None, narrow: bool = False) -> None:
        """Use `mask` from now on: W' = W * M is written into the module, in `dtype` (default: that of W).

        narrow: only `part` of W', and of the bias; what computes with them must take fewer rows or columns.
        """
        dtype = dtype or self.weight.dtype
        if self.stacks is not None:
            self.mask.copy_(mask)
            self.stacks.hold(dtype)
            return
        self.mask = mask
        weight, rows = self.weight.detach(), None
        if narrow and self.part is not None:
            indices, axis = self.part
            weight, mask = weight.index_select(axis, indices), mask.index_select(axis, indices)
            rows = indices if axis == 0 else None
        self._set_bias(rows)
        effective = self.effective
        fits = effective.shape == weight.shape and effective.dtype == dtype
        if not fits or effective.data_ptr() == self.weight.data_ptr():
            self.compute_with(torch.empty_like(weight, dtype=dtype))
        apply_mask(weight, mask, out=effective)

    def compute_with(self, memory: Tensor, bias: Tensor | None = None) -> None:
        """Let the module hold W' (and, if given, its bias) in this memory, of whatever shape and type.

        The parameters stay the same objects, as optimisers, wrappers and tied modules hold on to them. Only here is
        memory exchanged beneath a parameter in training.
        """
        self.effective.data = memory
        if bias is not None:
            self.module.bias.data = bias

    def _set_bias(self, rows: Tensor | None) -> None:
        """Leave the module only these of its bias's numbers, or give it back all of them (None)."""
        bias = getattr(self.module, "bias", None)
        if bias is None:
            return
        if self.bias is None or len(bias) == len(self.weight):
            self.bias = bias.detach()
        if rows is not None:
            self.compute_with(self.effective.data, self.bias[rows])
        elif len(bias) != len(self.weight):
            self.compute_with(self.effective.data, self.bias)
