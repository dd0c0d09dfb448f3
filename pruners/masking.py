"""What methods share: masked matrices, the straight-through gradient, one mask refresh a step.

A masked layer stays the stock module that it was: while pruning runs, its `weight` parameter holds W' = W * M, and
W is kept beside it. So forward and backward are those of the dense model, with no graph over masks or scores: after
`backward()` the weight's gradient is dL/dW', and the straight-through rule (SMP eq. 3, movement pruning eq. 5) is
elementwise arithmetic on it. Evaluation and export see plain modules with the pruned weights in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import torch
from torch import Tensor

from pruners.base import Counts, Pruner
from pruners.errors import PrunerError
from pruners.masks.allocation import kept_weights
from pruners.masks.layer import LayerStatistics, MaskedLayer
from pruners.masks.selection import apply_mask
from pruners.masks.stack import Stack, Stacks, is_elementwise, pieces, stacks_of


def attach(pruner: Pruner, layers: Sequence[MaskedLayer], statistics: dict[str, LayerStatistics]) -> None:
    """Give each layer what the method trains: first scores, trainable weights."""
    for layer in layers:
        layer.effective.requires_grad_(pruner.trains_scores or pruner.trains_weights)
        asked = pruner.trains_scores or pruner.needs_statistics
        start = pruner.start(layer, statistics.get(layer.name)) if asked else None
        if pruner.trains_scores:
            if start is None:
                raise ValueError(f"{pruner.name} trains scores, so its start() must return them")
            layer.learn_scores(start, bool(getattr(pruner.settings, "factored", False)))
        if pruner.trains_weights:
            layer.learn_weight()


def start_running(pruner: Pruner, layers: Sequence[MaskedLayer]) -> None:
    """Give each layer, and each stack, what the method keeps of gradients."""
    for layer in layers:
        layer.running = pruner.running(layer)
    stacks = stacks_of(layers)
    for stack in stacks.stacks if stacks is not None else ():
        stack.stack_running()


def running_numbers(pruner: Pruner, layers: Sequence[MaskedLayer]) -> int:
    """How many numbers the method keeps of gradients."""
    return sum(tensor.numel() for layer in layers for tensor in pruner.running(layer).values())


def refresh(
    pruner: Pruner,
    layers: Sequence[MaskedLayer],
    density: float,
    dtype: torch.dtype | None = None,
    narrow: bool = False,
) -> Tensor | None:
    """Choose every mask again, so that int(density * prunable) weights remain, and write W' into the modules.

    dtype: of W', where a training step computes in another than W's; it saves autocast the conversion.
    narrow: leave out the rows and columns that the method has given up for now, so that the step costs less; not done
    where layers are stacked.
    Raises ScoreError for a score that is NaN. Stacked layers wait for no answer of their device: there the sum of all
    that is ranked comes back, a scalar, which is finite where all of it is.
    """
    stacks = stacks_of(layers)
    kept = kept_weights(density, sum(layer.size for layer in layers))
    counts = pruner.allocate(layers, kept)
    if not is_elementwise(pruner, "restrict"):
        counts = _known(counts)
    counts = pruner.restrict(layers, counts, density)
    if not isinstance(counts, Tensor) and sum(counts) != kept:
        raise PrunerError(f"method '{pruner.name}' allocates {sum(counts):,} weights where {kept:,} are to remain")
    if stacks is not None:
        return _refresh_stacks(pruner, stacks, counts, dtype)

    def choose(pair: tuple[MaskedLayer, int]) -> None:
        layer, count = pair
        layer.part = None if pruner.trains_weights or pruner.observes else pruner.part(layer)
        layer.set_mask(_selected(pruner, layer, count), dtype, narrow)

    pairs = zip(layers, counts, strict=True)
    # Selection on a CPU is numpy's, one thread a matrix; a plugin's may not be safe to run so.
    alone = pruner.own_selection or layers[0].weight.device.type != "cpu" or torch.get_num_threads() == 1
    deque(map(choose, pairs) if alone else _threads(torch.get_num_threads()).map(choose, pairs), maxlen=0)
    return None


def _selected(pruner: Pruner, layer: MaskedLayer, count: int) -> Tensor:
    mask = pruner.select(layer, count)
    # Our own selection is exact; a plugin's is counted.
    if pruner.own_selection and (mask.dtype != torch.bool or int(mask.sum()) != count):
        raise PrunerError(f"method '{pruner.name}' selects no bool mask of {count:,} ones for {layer.name}")
    return mask


def _refresh_stacks(pruner: Pruner, stacks: Stacks, counts: Counts, dtype: torch.dtype | None) -> Tensor:
    if is_elementwise(pruner, "select"):
        for stack, own in zip(stacks.stacks, stacks.counts(counts), strict=True):
            chosen = pruner.select(stack, own)
            if chosen is not stack.mask:
                stack.mask.copy_(chosen)
    else:
        known = _known(counts)
        for layer, place in zip(stacks.layers, stacks.places, strict=True):
            layer.mask.copy_(_selected(pruner, layer, known[place]))
    for stack in stacks.stacks:
        stack.part = None if pruner.trains_weights or pruner.observes else _part(pruner, stack)
    stacks.hold(dtype or stacks.weight.dtype)
    return (stacks.weight if stacks.scores is None else stacks.scores).detach().sum()


def _known(counts: Counts) -> list[int]:
    """Counts as a hook of a plugin knows them; of a device they are waited for."""
    return [int(count) for count in counts.tolist()] if isinstance(counts, Tensor) else counts


def _part(pruner: Pruner, stack: Stack) -> tuple[Tensor, int] | None:
    """Which weights of a stack the loss tells something about, bool (n, size), and -1; None: all."""
    if is_elementwise(pruner, "part"):
        return pruner.part(stack)
    reach = torch.ones_like(stack.mask)
    for layer, row in zip(stack.layers, reach, strict=True):
        part = pruner.part(layer)
        if part is not None:
            row = row.view(layer.weight.shape)
            row.zero_().index_fill_(part[1], part[0], True)
    return reach, -1


def show_masks(layers: Sequence[MaskedLayer], dtype: torch.dtype | None = None) -> None:
    """Write W' = W * M into the modules, whole; by default in W's type, as evaluation and export see it."""
    stacks = stacks_of(layers)
    if stacks is not None:
        stacks.hold(dtype or stacks.weight.dtype)
        return
    for layer in layers:
        layer.set_mask(layer.mask, dtype)


@cache
def _threads(count: int) -> ThreadPoolExecutor:
    """As many threads, in which torch uses no threads of its own: two levels of them would fight for the cores."""
    pool = ThreadPoolExecutor(count, "masks", initializer=_alone)
    together = Barrier(count)
    deque(pool.map(lambda _: together.wait(), range(count)), maxlen=0)
    # For what starts later, too, the last call holds.
    torch.set_num_threads(count)
    return pool


def _alone() -> None:
    """This thread's torch operations use no other threads."""
    torch.get_num_threads()  # a thread's first question would undo the setting
    torch.set_num_threads(1)


def draw_gates(pruner: Pruner, layers: Sequence[MaskedLayer]) -> None:
    """After a training step's refresh: for a method that draws gates z, write W' = W * z into the modules."""
    if type(pruner).gates is Pruner.gates:
        return
    for piece in pieces(layers):
        piece.gates = pruner.gates(piece) if not isinstance(piece, Stack) else _stacked_gates(pruner, piece)
        if piece.gates is not None:
            torch.mul(piece.weight.detach(), piece.gates[0], out=piece.held)


def _stacked_gates(pruner: Pruner, stack: Stack) -> tuple[Tensor, Tensor] | None:
    if is_elementwise(pruner, "gates"):
        return pruner.gates(stack)
    drawn = [pruner.gates(layer) for layer in stack.layers]
    found = [gates for gates in drawn if gates is not None]
    if len(found) < len(drawn):
        return None
    z, slope = (torch.stack([gates[i].reshape(-1) for gates in found]) for i in (0, 1))
    return z, slope


def straight_through(pruner: Pruner, layers: Sequence[MaskedLayer], penalty_weight: float, step: int = 0) -> None:
    """Turn dL/dW', which backward() left in the modules, into the gradients of scores and weights.

    dL/dS = dL/dW' * W (plus the penalty's, in closed form); dL/dr, dL/dc are its sums over a row, a column;
    dL/dW = dL/dW' * M for methods that train weights. Drawn gates z take M's place, and dz/dS joins dL/dS.
    The loss reaches no score outside a layer's `part`. step: of the run, which `observe` is told.
    """
    stacks = stacks_of(layers)
    if stacks is not None:
        _straight_through_stacks(pruner, layers, stacks, penalty_weight, step)
        return
    for layer in layers:
        gradient = layer.effective.grad
        if gradient is None:
            if pruner.observes:
                pruner.observe(layer, torch.zeros_like(layer.weight), step)
            continue
        layer.effective.grad = None
        gradient = gradient.to(layer.weight.dtype)
        pruner.observe(layer, gradient, step)
        if layer.scores is not None:
            weight = layer.weight.detach()
            if layer.part is not None:
                moved = _of_part(gradient, weight, *layer.part)
            else:
                moved = gradient * weight if layer.trains_weight else gradient.mul_(weight)
            if layer.gates is not None:
                moved *= layer.gates[1]
            if penalty_weight:
                pruner.add_penalty_gradient(layer, moved, penalty_weight, len(layers))
            layer.scores.grad = moved
            if layer.row is not None and layer.column is not None:
                layer.row.grad = moved.sum(1, keepdim=True)
                layer.column.grad = moved.sum(0, keepdim=True)
        if layer.trains_weight:
            if layer.gates is None:
                apply_mask(gradient, layer.mask, out=gradient)
            else:
                gradient *= layer.gates[0]
            layer.weight.grad = gradient


def _straight_through_stacks(
    pruner: Pruner, layers: Sequence[MaskedLayer], stacks: Stacks, penalty_weight: float, step: int
) -> None:
    gradient = stacks.take_gradient()
    if gradient is None:
        return
    if pruner.observes:
        for stack, own in zip(stacks.stacks, stacks.by_size(gradient), strict=True):
            if is_elementwise(pruner, "observe"):
                pruner.observe(stack, own, step)
                continue
            for layer, row in zip(stack.layers, own, strict=True):
                pruner.observe(layer, row.view(layer.weight.shape), step)
    if stacks.scores is not None:
        weight = stacks.weight.detach()
        moved = gradient * weight if stacks.trains_weights else gradient.mul_(weight)
        for stack, own in zip(stacks.stacks, stacks.by_size(moved), strict=True):
            if stack.part is not None:
                own *= stack.part[0]
            if stack.gates is not None:
                own *= stack.gates[1]
            if penalty_weight and is_elementwise(pruner, "add_penalty_gradient"):
                pruner.add_penalty_gradient(stack, own, penalty_weight, len(layers))
            elif penalty_weight:
                for layer, row in zip(stack.layers, own, strict=True):
                    pruner.add_penalty_gradient(layer, row.view(layer.weight.shape), penalty_weight, len(layers))
        stacks.scores.grad = moved
        if stacks.factors is not None:
            stacks.factors.grad = torch.empty_like(stacks.factors)
            parts = stacks.split_factors(stacks.factors.grad)
            for own, (row, column) in zip(stacks.by_shape(moved), parts, strict=True):
                torch.sum(own, 2, keepdim=True, out=row)
                torch.sum(own, 1, keepdim=True, out=column)
    if stacks.trains_weights:
        gates = [stack.gates for stack in stacks.stacks]
        if all(one is None for one in gates):
            gradient *= stacks.mask
        for drawn, own in zip(gates, stacks.by_size(gradient), strict=True):
            if drawn is not None:
                own *= drawn[0]
        stacks.weight.grad = gradient


def _of_part(gradient: Tensor, weight: Tensor, indices: Tensor, axis: int) -> Tensor:
    """gradient * weight in those rows or columns, and 0 elsewhere, (out, in). `gradient`: of these, or of all."""
    if gradient.shape == weight.shape:
        gradient = gradient.index_select(axis, indices)
    moved = torch.zeros_like(weight)
    return moved.index_copy_(axis, indices, gradient.mul_(weight.index_select(axis, indices)))


@torch.no_grad()
def fold_factors(layers: Sequence[MaskedLayer]) -> None:
    """After an optimiser step: add what rows and columns gained to every score of theirs."""
    stacks = stacks_of(layers)
    if stacks is not None:
        if stacks.scores is not None and stacks.factors is not None:
            parts = stacks.split_factors(stacks.factors)
            for scores, (row, column) in zip(stacks.by_shape(stacks.scores), parts, strict=True):
                scores.add_(row).add_(column)
            stacks.factors.zero_()
        return
    for layer in layers:
        if layer.scores is not None and layer.row is not None and layer.column is not None:
            # r_i 1 + 1 c_j as one product: a single pass over S.
            ones = layer.row.new_ones(1)
            layer.scores.addmm_(
                torch.cat([layer.row, ones.expand_as(layer.row)], 1),
                torch.cat([ones.expand_as(layer.column), layer.column], 0),
            )
            layer.row.zero_()
            layer.column.zero_()


def kept(layers: Iterable[MaskedLayer]) -> int:
    """Number of weights that the masks keep."""
    return sum(int(layer.mask.sum()) for layer in layers)
