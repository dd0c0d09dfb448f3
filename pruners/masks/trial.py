"""Which layers the model can compute with in part: names only propose, a trial decides.

Blocks of other architectures have matrices of BERT's names, and yet count their heads (a bias for each), reshape to
a fixed width, or deal out what is left among all heads. The first two raise an error in a narrow step; the last
computes something else, in silence. So before training the model computes a few texts with some channels left out,
once with zeros in their place and once without them: what can't, or comes to another result, always computes all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pruners.masks.layer import MaskedLayer
from pruners.masks.structure import Shared, computed_channels, find_channels, has_channels

# Largest difference of the two, as a part of the largest number: far above rounding, far below what a mix-up makes.
TOLERANCE = 1e-4
# Which units (heads or neurons) of how many stay in a block: every other one; the last one; none.
_DRAWS: tuple[Callable[[int, int, int], bool], ...] = (
    lambda unit, units, block: (unit + block) % 2 == 0 or units == 1,
    lambda unit, units, block: unit == units - 1,
    lambda unit, units, block: False,
)


@torch.no_grad()
def confirm_narrow(layers: Sequence[MaskedLayer], compute: Callable[[], Tensor]) -> None:
    """Set `narrows` of each layer, for attention of all blocks alike, and for the feed-forward parts of all blocks.

    compute: a forward pass in evaluation mode over a few texts, the same each time; returns its outputs. Modules,
    masks and random state are afterwards what they were. Blocks of another form than BERT's never narrow.
    """
    for layer in layers:
        layer.narrows = False
    if not has_channels(layers):
        return
    blocks = find_channels(layers)
    attention = [pair for block in blocks for pair in block[:2]]
    neurons = [block[2] for block in blocks]
    devices = [layers[0].weight.device] if layers[0].weight.is_cuda else []
    with torch.random.fork_rng(devices), _as_they_were(layers):
        # Most models can do both, which one trial tells.
        confirmed = attention + neurons
        if not _agree(layers, confirmed, attention, compute):
            groups = [group for group in (attention, neurons) if _agree(layers, group, attention, compute)]
            confirmed = [pair for group in groups for pair in group]
    for pair in confirmed:
        layers[pair.first].narrows = layers[pair.second].narrows = True


def _agree(
    layers: Sequence[MaskedLayer], pairs: Sequence[Shared], attention: Sequence[Shared], compute: Callable[[], Tensor]
) -> bool:
    """Whether the model computes without these pairs' channels what it computes with zeros in their place."""
    for stays in _DRAWS:
        for layer in layers:
            layer.mask, layer.part = torch.ones_like(layer.mask), None
        for number, pair in enumerate(pairs):
            size = layers[pair.first].weight.shape[pair.first_axis]
            units = max(1, layers[pair.first].heads) if pair in attention else size
            # The two pairs of a block's attention lose the same heads.
            block = number // 2 if pair in attention else number
            alive = torch.tensor([stays(unit, units, block) for unit in range(units)])
            _leave_out(layers, pair, alive.repeat_interleave(size // units).nonzero()[:, 0])
        try:
            whole, narrow = (_outputs(layers, pairs, compute, narrow) for narrow in (False, True))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever an architecture makes of shapes that it doesn't know
            return False
        if len(whole) != len(narrow) or not all(map(same_answers, whole, narrow)):
            return False
    return True


def _leave_out(layers: Sequence[MaskedLayer], pair: Shared, indices: Tensor) -> None:
    """Mask all but these channels of a pair, and make them its part."""
    for index, axis in pair.sides:
        layer = layers[index]
        there = indices.to(layer.weight.device)
        layer.mask = torch.zeros_like(layer.mask).index_fill_(axis, there, True)
        layer.part = computed_channels(layer, there, axis)


def _outputs(
    layers: Sequence[MaskedLayer], pairs: Sequence[Shared], compute: Callable[[], Tensor], narrow: bool
) -> list[Tensor]:
    """What leaves the pairs, and the model's own outputs: channels left out don't show in their shape."""
    found: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        found.append(output)

    for layer in layers:
        layer.set_mask(layer.mask, narrow=narrow)
    readers = [layers[pair.second].module for pair in pairs if pair.second_axis == 1]
    hooks = [module.register_forward_hook(keep) for module in readers]
    try:
        return [compute(), *found]
    finally:
        for hook in hooks:
            hook.remove()


def same_answers(one: Tensor, other: Tensor) -> bool:
    """Whether outputs of a model are equal but for rounding, relative to the largest number of `one`."""
    if one.shape != other.shape:
        return False
    # At padding, an architecture may leave NaN.
    largest = float(one.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(one, other, rtol=0, atol=TOLERANCE * largest, equal_nan=True)


@contextmanager
def _as_they_were(layers: Sequence[MaskedLayer]) -> Iterator[None]:
    """Layers leave as they come: masks, and modules that hold W itself."""
    before = [(layer.mask, layer.part, layer.effective.data) for layer in layers]
    try:
        yield
    finally:
        for layer, (mask, part, effective) in zip(layers, before, strict=True):
            layer.part = part
            layer.set_mask(mask)
            if effective.data_ptr() == layer.weight.data_ptr():
                layer.compute_with(effective)
