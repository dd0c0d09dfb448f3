"""`Channels` on an accelerator: the same choice from stacked matrices, without waiting for the device's answers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruners.masks.allocation import SAMPLE_STRIDE
from pruners.masks.layer import MaskedLayer
from pruners.masks.selection import top_k_mask
from pruners.masks.stack import RowCounts, Stacks
from pruners.masks.stacked_allocation import fit
from pruners.masks.structure import SAMPLED_FROM, find_channels


@dataclass(frozen=True)
class _Run:
    """Rows first to last (not included) of a stack that share channels alike, `roles` matrices of every block.

    axis: along which channels lie; neurons: whether they are neurons, else the channels of heads.
    """

    stack: int
    first: int
    last: int
    roles: tuple[int, ...]
    out: int
    inputs: int
    axis: int

    @property
    def neurons(self) -> bool:
        return self.roles[0] >= 4

    @property
    def channels(self) -> int:
        return self.out if self.axis == 0 else self.inputs

    def joined(self, after: _Run) -> list[_Run]:
        """One run, where the other goes on with this one, else both."""
        mine = (self.stack, self.last, self.out, self.inputs, self.axis, self.neurons)
        if mine != (after.stack, after.first, after.out, after.inputs, after.axis, after.neurons):
            return [self, after]
        return [dataclasses.replace(self, last=after.last, roles=(*self.roles, *after.roles))]

    def of(self, stacked: Sequence[Tensor]) -> Tensor:
        """These rows of the stacks' tensors (n, size), as (roles, blocks, out, in)."""
        return stacked[self.stack][self.first : self.last].view(len(self.roles), -1, self.out, self.inputs)


def blocks_alike(layers: Sequence[MaskedLayer]) -> bool:
    """Whether all blocks are of one form: each role (query, key, value, output, up, down) of one shape and kind."""
    forms = {
        tuple(
            (layers[i].kind, layers[i].weight.shape, layers[i].heads, axis)
            for pair in block
            for i, axis in pair.sides
        )
        for block in find_channels(layers)
    }
    return len(forms) == 1


def _runs(
    layers: Sequence[MaskedLayer], stacks: Stacks, axes: Sequence[int], sides: Sequence[Sequence[int]]
) -> list[_Run]:
    """The rows of each role, which lie together as stacks are sorted by kind; roles that go on alike are one run."""
    starts = [0]
    for stack in stacks.stacks:
        starts.append(starts[-1] + len(stack.layers))
    found = []
    for role, axis in enumerate(axes):
        first = stacks.places.index(sides[0][role])
        number = max(i for i, start in enumerate(starts) if start <= first)
        row = first - starts[number]
        out, inputs = layers[sides[0][role]].weight.shape
        found.append(_Run(number, row, row + len(sides), (role,), out, inputs, axis))
    runs: list[_Run] = []
    for run in sorted(found, key=lambda run: (run.stack, run.first)):
        runs = [*runs[:-1], *runs[-1].joined(run)] if runs else [run]
    return runs


class StackedChannels:
    """Which channels may keep weights, chosen at every refresh; for blocks that are all of one form."""

    def __init__(self, layers: Sequence[MaskedLayer], stacks: Stacks) -> None:
        blocks = find_channels(layers)
        sides = [[index for pair in block for index, _ in pair.sides] for block in blocks]
        self.stacks = stacks
        self.runs = runs = _runs(layers, stacks, [axis for pair in blocks[0] for _, axis in pair.sides], sides)
        heads = max(1, layers[0].heads)
        self.blocks = len(sides)
        self.heads = heads
        device, sizes = stacks.device, [stack.size for stack in stacks.stacks for _ in stack.layers]
        self.prunable = sum(sizes)
        self.strides = [SAMPLE_STRIDE if stack.size >= SAMPLED_FROM else 1 for stack in stacks.stacks]
        strides = [stride for stack, stride in zip(stacks.stacks, self.strides, strict=True) for _ in stack.layers]
        self.stride = torch.tensor(strides, dtype=torch.float64, device=device)
        sampled = [-(-size // stride) for size, stride in zip(sizes, strides, strict=True)]
        self.sampled = torch.tensor(sampled, dtype=torch.float64, device=device)
        run_of = {role: run for run in runs for role in run.roles}
        per_head = [run_of[role].channels // heads for role in range(4)]
        # What falls as a whole: first the heads of a block, then its neurons; what each costs in channels.
        self.cost_of_head = per_head[0] + per_head[2]
        costs = ([self.cost_of_head] * heads + [1] * run_of[4].channels) * self.blocks
        self.costs, self.total = torch.tensor(costs, device=device), sum(costs)
        # Weights of a layer in each unit that is alive, and which number counts these: a block's heads, its neurons.
        width, unit_of = [0] * len(sizes), [0] * len(sizes)
        for block, of_block in enumerate(sides):
            for role, index in enumerate(of_block):
                run = run_of[role]
                across = run.inputs if run.axis == 0 else run.out
                width[index] = across if run.neurons else across * per_head[role]
                unit_of[index] = 2 * block + run.neurons
        self.width = torch.tensor(width, dtype=torch.float64, device=device)
        self.unit_of = torch.tensor(unit_of, device=device)
        self.parts = torch.zeros(heads + run_of[4].channels, 2, dtype=torch.float64, device=device)
        self.parts[:heads, 0] = self.parts[heads:, 1] = 1
        self.in_head = per_head[0] if per_head[0] == per_head[2] else None
        self.one = torch.ones((), dtype=torch.float64, device=device)
        self.places = torch.arange(len(layers), dtype=torch.float64, device=device)
        # Layers that no trial has shown to compute with fewer channels: the loss reaches all of them.
        self.whole = [
            torch.tensor([[not layer.narrows] for layer in stack.layers], device=device) for stack in stacks.stacks
        ]
        self.alive_of = [torch.ones_like(stack.mask) for stack in stacks.stacks]

    def restrict(
        self, scores: Sequence[Tensor], counts: Sequence[int] | Tensor, kept: int, fraction: float
    ) -> Tensor:
        """As `Channels.restrict`. scores: (n, size) of each stack; counts: of each layer, `kept` in all; fraction: of
        channels, at most so many keep weights. Returns (layers,) float64."""
        if not isinstance(counts, Tensor):
            counts = self.stacks.sent(counts)
        budget, needed = int(fraction * self.total), math.ceil(kept * self.total / self.prunable)
        alive = self._afford(self._missed(scores, counts), max(budget, needed), needed).view(self.blocks, -1)
        heads, neurons = alive[:, : self.heads], alive[:, self.heads :]
        of_heads = heads.repeat_interleave(self.in_head, 1) if self.in_head else None
        for run in self.runs:
            channels = neurons if run.neurons else of_heads
            if channels is None:
                channels = heads.repeat_interleave(run.channels // self.heads, 1)
            run.of(self.alive_of).copy_(channels[:, :, None] if run.axis == 0 else channels[:, None, :])
        # Heads and neurons that are alive in each block.
        units = alive.double() @ self.parts
        return fit(counts, units.view(-1).index_select(0, self.unit_of) * self.width, kept, self.places)

    def select(self, piece: MaskedLayer, scores: Tensor, kept: int | RowCounts) -> Tensor:
        """The mask of the highest scores in the chosen channels, of each row of a stack (n, size), or of a layer."""
        if isinstance(kept, RowCounts):
            return kept.highest(scores, self.alive_of[self._number(piece)])
        stack = next(one for one in self.stacks.stacks if piece in one.layers)
        alive = self.alive_of[self._number(stack)][stack.layers.index(piece)].view_as(scores)
        mask = torch.zeros_like(alive)
        mask[alive] = top_k_mask(scores[alive], kept)
        return mask

    def part(self, stack: MaskedLayer) -> tuple[Tensor, int] | None:
        """Which weights the loss tells something about, bool (n, size), and -1; None: all.

        Of a block without a head that is none of its attention; `Channels` computes with one head there, as it must.
        """
        number = self._number(stack)
        narrows = [layer.narrows for layer in self.stacks.stacks[number].layers]
        if not any(narrows):
            return None
        alive = self.alive_of[number]
        return (alive if all(narrows) else alive | self.whole[number]), -1

    def _missed(self, scores: Sequence[Tensor], counts: Tensor) -> Tensor:
        """What each unit would be missed for, (units of all blocks,), a block's heads before its neurons."""
        wanted = counts.index_select(0, self.stacks.rows).div_(self.stride).round_()
        places = (self.sampled - wanted.clamp_(self.one, self.sampled)).long()
        excess = []
        for rows, stride, place in zip(
            scores, self.strides, torch.split(places, [len(rows) for rows in scores]), strict=True
        ):
            threshold = rows[:, ::stride].sort(1).values.gather(1, place[:, None])
            excess.append((rows - threshold).clamp_(min=0))
        of: dict[int, Tensor] = {}
        for run in self.runs:
            sums = run.of(excess).sum(3 - run.axis)
            of |= dict(zip(run.roles, sums.unbind(), strict=True))
        query_key, value_output, neurons = of[0] + of[1], of[2] + of[3], of[4] + of[5]
        per_head = [one.view(self.blocks, self.heads, -1) for one in (query_key, value_output)]
        return torch.cat([torch.cat(per_head, 2).mean(2), neurons], 1).view(-1)

    def _afford(self, values: Tensor, budget: int, needed: int) -> Tensor:
        """As `structure._afford`: down the values, the first head that doesn't fit is left out, as are all heads
        after it, while neurons go on to fill what is left of the budget."""
        order = values.sort(descending=True, stable=True).indices
        costs = self.costs.index_select(0, order)
        left_out = (costs.cumsum(0) > budget).logical_and_(costs > 1)
        costs = costs.masked_fill(left_out, 0)
        taken = (costs.cumsum(0) <= budget).logical_and_(costs > 0)
        if needed > budget - self.cost_of_head:
            lack = needed - (costs * taken).sum()
            taken |= left_out & ((left_out.cumsum(0) - 1) * self.cost_of_head < lack)
        return torch.empty_like(taken).scatter_(0, order, taken)

    def _number(self, stack: MaskedLayer) -> int:
        return next(i for i, one in enumerate(self.stacks.stacks) if one is stack)
