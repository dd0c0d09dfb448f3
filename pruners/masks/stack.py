"""Matrices of one size as one tensor: on an accelerator a step then costs an operation a size, not one a matrix.

A model's masked matrices lie behind one another in flat memory, sorted by size and shape. A `Stack` is what is of one
size, (n, size), a flattened matrix a row; each layer's W, M, S and W' are views of it, so a layer looks as it does
without stacks. What is trained is the flat memory itself: few, large parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from pruners.masks.layer import MaskedLayer
from pruners.masks.selection import RowTopK, top_k_mask


class RowRule(Protocol):
    """Selects the highest numbers of each row of a stack, as `RowTopK` does."""

    def mask(
        self,
        rows: Tensor,
        kept: Tensor,
        fewer: Tensor,
        least: int,
        most: int,
        inside: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor: ...


Hook = TypeVar("Hook", bound=Callable[..., Any])


def elementwise(hook: Hook) -> Hook:
    """Mark a method's hook as one whose arithmetic holds for a `Stack` (n, size) as for a layer (out, in).

    That is one that treats each number alone, or all of a matrix: `layer.size` counts them. Without the mark a hook
    is asked a layer at a time.
    """
    hook.elementwise = True  # type: ignore[attr-defined]
    return hook


def is_elementwise(method: Any, hook: str) -> bool:
    return getattr(getattr(type(method), hook), "elementwise", False)


@dataclass(frozen=True)
class RowCounts:
    """How many of each row of a stack are kept: values[i] = most - fewer[i], within least..most; both (n,)."""

    values: Tensor
    fewer: Tensor
    least: int
    most: int
    rule: RowRule
    out: Tensor

    def highest(self, scores: Tensor, inside: Tensor | None = None) -> Tensor:
        """The mask of so many highest scores (n, size), of those `inside` alone, in the stack's own memory."""
        return self.rule.mask(scores, self.values, self.fewer, self.least, self.most, inside, self.out)


@dataclass(frozen=True)
class Shape:
    """Rows first to last (not included) of a stack, all of shape (out, in)."""

    first: int
    last: int
    out: int
    inputs: int

    def of(self, stacked: Tensor) -> Tensor:
        """These rows of (n, size), as (n', out, in)."""
        return stacked[self.first : self.last].view(-1, self.out, self.inputs)


class Stack(MaskedLayer):
    """Masked matrices of one size: `weight`, `mask`, `scores` are (n, size); `Stacks` has row and column scores."""

    def __init__(self, layers: Sequence[MaskedLayer]) -> None:
        first = layers[0]
        self.layers = list(layers)
        self.name = f"{len(layers)} matrices of {first.size:,} weights"
        self.kind, self.heads, self.narrows = "", first.heads, False
        self.size = first.size
        self.gates: tuple[Tensor, Tensor] | None = None
        self.scores = self.row = self.column = None
        self.running: dict[str, Tensor] = {}
        self.rule: RowRule
        shapes = [layer.weight.shape for layer in layers]
        ends, self.shapes = 0, []
        for (out, inputs), members in groupby(shapes):
            count = len(list(members))
            self.shapes.append(Shape(ends, ends + count, out, inputs))
            ends += count

    @property
    def held(self) -> Tensor:
        return self._held

    @held.setter
    def held(self, memory: Tensor) -> None:
        self._held = memory

    def stack_running(self) -> None:
        """Hold what each layer keeps of gradients as (n, size, …), of which theirs are views from now on."""
        for name in self.layers[0].running:
            joined = torch.stack([layer.running[name].flatten(0, 1) for layer in self.layers])
            self.running[name] = joined
            for layer, own in zip(self.layers, joined, strict=True):
                layer.running[name] = own.unflatten(0, layer.weight.shape)


class Stacks:
    """All masked layers of a model, stacked by size. After this call the layers are views.

    order: for each layer, its place among the stacks' rows; parameters: what is trained, flat.
    """

    def __init__(self, layers: Sequence[MaskedLayer]) -> None:
        kinds = {kind: number for number, kind in enumerate(dict.fromkeys(layer.kind for layer in layers))}
        self.places = sorted(
            range(len(layers)),
            key=lambda i: (layers[i].size, tuple(layers[i].weight.shape), kinds[layers[i].kind], i),
        )
        self.layers = [layers[i] for i in self.places]
        self.device = self.layers[0].weight.device
        # The layers' order from that of the rows, and the other way round.
        self.order = torch.tensor([self.places.index(i) for i in range(len(layers))], device=self.device)
        self.rows = torch.tensor(self.places, device=self.device)
        self.stacks = [Stack(list(members)) for _, members in groupby(self.layers, lambda layer: layer.size)]
        self.effective: Tensor | None = None
        self._laid_aside: Tensor | None = None
        self.scores: nn.Parameter | None = None
        # Row scores of all layers, then column scores.
        self.factors: nn.Parameter | None = None
        self.trains_weights = self.layers[0].trains_weight
        flat = _flat([layer.weight.detach() for layer in self.layers])
        self.weight: Tensor = nn.Parameter(flat) if self.trains_weights else flat
        self._bind("weight", flat)
        self.mask = torch.ones_like(flat, dtype=torch.bool)
        self._bind("mask", self.mask)
        if self.layers[0].scores is not None:
            self.scores = nn.Parameter(_flat([layer.score() for layer in self.layers]))
            self._bind("scores", self.scores.detach())
        if self.layers[0].row is not None:
            sizes = [layer.weight.shape[axis] for axis in (0, 1) for layer in self.layers]
            self.factors = nn.Parameter(flat.new_zeros(sum(sizes)))
            parts = torch.split(self.factors.detach(), sizes)
            for layer, row, column in zip(self.layers, parts, parts[len(self.layers) :], strict=False):
                layer.row, layer.column = row.view(-1, 1), column.view(1, -1)
        rows = [(len(stack.layers), stack.size) for stack in self.stacks]
        for stack, shape in zip(self.stacks, rows, strict=True):
            stack.rule = row_rule(*shape, flat.dtype, self.device)
        sizes = [size for count, size in rows for _ in range(count)]
        self.sizes = torch.tensor(sizes, dtype=torch.float64, device=self.device)
        self.hold(flat.dtype)
        for layer in self.layers:
            layer.stacks = self

    def _bind(self, name: str, flat: Tensor) -> None:
        """Make views of flat memory of every layer's, and every stack's, tensor of that name."""
        for stack, part in zip(self.stacks, self.by_size(flat), strict=True):
            setattr(stack, name, part)
        for layer, part in zip(self.layers, torch.split(flat, [layer.size for layer in self.layers]), strict=True):
            setattr(layer, name, part.view(layer.weight.shape))

    def parameters(self) -> list[nn.Parameter]:
        """The trained scores."""
        return [part for part in (self.scores, self.factors) if part is not None]

    def inside(self, parameter: Tensor) -> list[tuple[MaskedLayer, str]]:
        """What a trained parameter holds, in a row: each layer's "weight", "scores", "row" or "column"."""
        if parameter is self.factors:
            return [(layer, part) for part in ("row", "column") for layer in self.layers]
        part = "scores" if parameter is self.scores else "weight"
        return [(layer, part) for layer in self.layers]

    def hold(self, dtype: torch.dtype) -> None:
        """Have memory for W' of this type, W * M in it, and every module see its part.

        Memory of another type than W's stays where it is through an evaluation, as recorded passes read it there.
        """
        if self.effective is None or self.effective.dtype != dtype:
            if self.effective is not None and self.effective.dtype != self.weight.dtype:
                self._laid_aside = self.effective
            kept = self._laid_aside
            self.effective = (
                kept if kept is not None and kept.dtype == dtype else torch.empty_like(self.mask, dtype=dtype)
            )
            parts = torch.split(self.effective, [layer.size for layer in self.layers])
            for layer, part in zip(self.layers, parts, strict=True):
                layer.compute_with(part.view(layer.weight.shape))
            for stack, own in zip(self.stacks, self.by_size(self.effective), strict=True):
                stack.held = own
        torch.mul(self.weight.detach(), self.mask, out=self.effective)

    def take_gradient(self) -> Tensor | None:
        """dL/dW' of all matrices, (weights,), in W's type, taken away from the modules; None where there is none."""
        parameters = [layer.effective for layer in self.layers]
        found = [parameter.grad for parameter in parameters]
        if all(gradient is None for gradient in found):
            return None
        parts = [
            (parameter.new_zeros(parameter.shape) if gradient is None else gradient).reshape(-1)
            for parameter, gradient in zip(parameters, found, strict=True)
        ]
        for parameter in parameters:
            parameter.grad = None
        return torch.cat(parts, out=torch.empty_like(self.weight.detach()))

    def by_size(self, flat: Tensor) -> list[Tensor]:
        """Flat memory of all weights as (n, size) of each stack."""
        parts = torch.split(flat, [len(stack.layers) * stack.size for stack in self.stacks])
        return [part.view(-1, stack.size) for stack, part in zip(self.stacks, parts, strict=True)]

    def by_shape(self, flat: Tensor) -> list[Tensor]:
        """Flat memory of all weights as (n', out, in) of each shape."""
        parts = zip(self.stacks, self.by_size(flat), strict=True)
        return [shape.of(part) for stack, part in parts for shape in stack.shapes]

    def split_factors(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Flat memory of all row and column scores as (n', out, 1) and (n', 1, in) of each shape."""
        shapes = [shape for stack in self.stacks for shape in stack.shapes]
        sizes = [(shape.last - shape.first) * shape.out for shape in shapes]
        sizes += [(shape.last - shape.first) * shape.inputs for shape in shapes]
        parts = torch.split(flat, sizes)
        return [
            (row.view(-1, shape.out, 1), column.view(-1, 1, shape.inputs))
            for shape, row, column in zip(shapes, parts, parts[len(shapes) :], strict=False)
        ]

    def in_layers_order(self, of_stacks: Sequence[Tensor]) -> Tensor:
        """A number for each row of each stack, as one vector in the order of the layers."""
        return torch.cat(list(of_stacks)).index_select(0, self.order)

    def sent(self, numbers: Sequence[Any]) -> Tensor:
        """Numbers of the host as float64 on the device, without waiting for it."""
        host = torch.from_numpy(np.array(numbers, dtype=np.float64))
        # Only from pinned memory does a GPU take them by itself.
        return (
            host.pin_memory().to(self.device, non_blocking=True)
            if self.device.type == "cuda"
            else host.to(self.device)
        )

    def counts(self, of_layers: Sequence[int] | Tensor) -> list[RowCounts]:
        """How many weights each layer keeps, (layers,), by stack."""
        lengths = [len(stack.layers) for stack in self.stacks]
        if isinstance(of_layers, Tensor):
            bounds = [(0, stack.size) for stack in self.stacks]
            values = of_layers.index_select(0, self.rows)
            fewer = self.sizes - values
        else:
            known = iter([of_layers[place] for place in self.places])
            kept = [[next(known) for _ in range(length)] for length in lengths]
            bounds = [(min(of), max(of)) for of in kept]
            both = [[count for of in kept for count in of], [max(of) - count for of in kept for count in of]]
            values, fewer = self.sent(both)
        parts = zip(self.stacks, torch.split(values, lengths), torch.split(fewer, lengths), bounds, strict=True)
        return [RowCounts(own, less, *bound, stack.rule, stack.mask) for stack, own, less, bound in parts]


def stack_layers(layers: Sequence[MaskedLayer]) -> None:
    """From now on the layers are views of stacks, and `stacks_of(layers)` has what is trained in their place."""
    if layers:
        Stacks(layers)


def stacks_of(layers: Sequence[MaskedLayer]) -> Stacks | None:
    return layers[0].stacks if layers else None


def pieces(layers: Sequence[MaskedLayer]) -> Sequence[MaskedLayer]:
    """What a rule is applied to piece by piece: the stacks, or the layers where there are none."""
    stacks = stacks_of(layers)
    return layers if stacks is None else stacks.stacks


def scores_of(method: Any, piece: MaskedLayer) -> Tensor:
    """`method.score` of a layer (out, in), or of a stack (n, size)."""
    if not isinstance(piece, Stack) or is_elementwise(method, "score"):
        found: Tensor = method.score(piece)
        return found
    return torch.stack([method.score(layer).reshape(-1) for layer in piece.layers])


def highest(scores: Tensor, kept: int | RowCounts) -> Tensor:
    """The mask of the `kept` highest scores, of each row where they are a stack's; bool of the same shape."""
    if isinstance(kept, RowCounts):
        return kept.highest(scores)
    return top_k_mask(scores, kept)


def score_parameters(layers: Sequence[MaskedLayer]) -> list[nn.Parameter]:
    """The trained scores of these layers: theirs, or the flat ones that they are views of."""
    stacks = stacks_of(layers)
    if stacks is not None:
        return stacks.parameters()
    return [part for layer in layers for part in layer.score_parameters()]


def weight_parameters(layers: Sequence[MaskedLayer]) -> list[nn.Parameter]:
    """W of these layers where it is trained, likewise."""
    stacks = stacks_of(layers)
    if stacks is not None:
        return [stacks.weight] if isinstance(stacks.weight, nn.Parameter) else []
    return [layer.weight for layer in layers if isinstance(layer.weight, nn.Parameter)]


def row_rule(n: int, size: int, dtype: torch.dtype, device: torch.device) -> RowRule:
    """What selects the highest of rows (n, size): our kernels where they work, else torch's operations."""
    if device.type == "cuda" and dtype == torch.float32:
        # Comes with torch where that is made for a GPU.
        with suppress(ImportError):
            from pruners.masks.radix import RadixTopK, confirmed

            if confirmed(device):
                return RadixTopK(n, size, device)
    return RowTopK(n, size, dtype, device)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
