"""Channels: a limit on how many neurons and heads keep weights, so that whole rows and columns fall away.

A channel is what one matrix of a block writes and another reads: a neuron of the feed-forward part (row of the first
matrix, column of the second), a value dimension of a head (row of "value", column of the attention's output), a
query-key dimension of a head (row of "query" and of "key"). The two matrices share it: it lives or falls in both, and
what falls can be cut out of both without changing what the model computes. The dimensions of a head fall together, as
a head costs time by being there.

Weights are still chosen one by one. Of each matrix's scores, the part above its threshold (the score of its last kept
weight) is summed over a channel: what the channel would be missed for. The channels with the highest sums may keep
weights, and those of the others are spent again among them. Where weights are frozen, training computes with the
chosen channels only: of the others' scores the loss says nothing, the penalty alone pulls them, and they come back
when the chosen ones sink below them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruners.errors import PrunerError, ScoreError
from pruners.masks.allocation import SAMPLE_STRIDE, round_to_total
from pruners.masks.architectures import matrices_by_role
from pruners.masks.layer import MaskedLayer
from pruners.masks.selection import top_k_mask

# The pairs of matrices that share channels, and the axis that is the channel in each: 0 rows, 1 columns.
_PAIRS = (("query", 0, "key", 0), ("value", 0, "output", 1), ("up", 0, "down", 1))

# From this many scores on, a threshold comes from a sample of them.
SAMPLED_FROM = 2**16


@dataclass(frozen=True)
class Shared:
    """Two layers that share channels, by their index, and the axis of each along which the channels lie."""

    first: int
    first_axis: int
    second: int
    second_axis: int

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.first, self.first_axis), (self.second, self.second_axis)


def has_channels(layers: Sequence[MaskedLayer]) -> bool:
    """Whether these are blocks as `find_channels` knows them."""
    return _blocks(layers) is not None


def find_channels(layers: Sequence[MaskedLayer]) -> list[tuple[Shared, Shared, Shared]]:
    """For each block its pairs of layers: query and key, value and output, the two of the feed-forward part.

    Raises PrunerError for layers of another architecture.
    """
    found = _blocks(layers)
    if found is None:
        raise PrunerError(
            "structure needs blocks of query, key, value, output and two feed-forward matrices, as in BERT, RoBERTa, "
            "DistilBERT, ELECTRA or MPNet",
            "leave it out for this model",
        )
    return found


def _blocks(layers: Sequence[MaskedLayer]) -> list[tuple[Shared, Shared, Shared]] | None:
    blocks: dict[str, dict[str, int]] = {}
    for index, layer in enumerate(layers):
        blocks.setdefault(layer.name.removesuffix(layer.kind), {})[layer.kind] = index
    found = []
    for members in blocks.values():
        matrices = matrices_by_role(members)
        if matrices is None:
            return None
        query_key, value_output, neurons = (
            Shared(members[matrices[one]], axis, members[matrices[other]], other_axis)
            for one, axis, other, other_axis in _PAIRS
        )
        pairs = query_key, value_output, neurons
        if not all(_fits(layers, pair) for pair in pairs) or not _heads_divide(layers, pairs[:2]):
            return None
        found.append(pairs)
    return found


def _fits(layers: Sequence[MaskedLayer], pair: Shared) -> bool:
    """Whether both matrices have as many channels."""
    return layers[pair.first].weight.shape[pair.first_axis] == layers[pair.second].weight.shape[pair.second_axis]


def _heads_divide(layers: Sequence[MaskedLayer], pairs: Sequence[Shared]) -> bool:
    """Whether every head has as many channels as any other."""
    return all(
        layers[pair.first].weight.shape[pair.first_axis] % max(1, layers[pair.first].heads) == 0 for pair in pairs
    )


class Channels:
    """Which channels may keep weights, chosen again at every refresh of the masks."""

    def __init__(self, layers: Sequence[MaskedLayer]) -> None:
        self.blocks = find_channels(layers)
        self.chosen: dict[str, tuple[Tensor, int]] = {}

    def restrict(
        self, layers: Sequence[MaskedLayer], scores: Sequence[Tensor], counts: Sequence[int], fraction: float
    ) -> list[int]:
        """Choose the channels, and return how many weights each layer keeps in them; the sum stays what it was.

        scores: what is ranked, (out, in) of each layer; counts: what each would keep without a limit; fraction: of
        all channels, at most this many keep weights (more only where the weights wouldn't fit into them).
        """
        # Units are what falls as a whole: first the heads of a block, then its neurons.
        values, costs = [], []
        for query_key, value_output, neurons in self.blocks:
            heads = max(1, layers[query_key.first].heads)
            in_heads = [_missed(pair, scores, counts).view(heads, -1) for pair in (query_key, value_output)]
            attention = torch.cat(in_heads, 1)
            values += [attention.mean(1), _missed(neurons, scores, counts)]
            costs += [attention.shape[1]] * heads + [1] * len(values[-1])
        total = sum(costs)
        fitting = math.ceil(sum(counts) * total / sum(score.numel() for score in scores))
        # From here on it is about some thousand channels, which is the host's work.
        alive = _afford(torch.cat(values).cpu(), costs, max(int(fraction * total), fitting), fitting)
        parts = iter(torch.split(alive, [len(part) for part in values]))
        chosen: list[tuple[int, int, Tensor]] = []
        capacity = [0] * len(layers)
        for query_key, value_output, neurons in self.blocks:
            of_heads, of_neurons = next(parts), next(parts)
            for pair, units in ((query_key, of_heads), (value_output, of_heads), (neurons, of_neurons)):
                for index, axis in pair.sides:
                    size = scores[index].shape[axis]
                    indices = units.repeat_interleave(size // len(units)).nonzero()[:, 0]
                    chosen.append((index, axis, indices))
                    capacity[index] = len(indices) * (scores[index].numel() // size)
        # One copy to the device for all of them.
        there = torch.cat([indices for _, _, indices in chosen]).to(scores[0].device)
        split = torch.split(there, [len(indices) for _, _, indices in chosen])
        self.chosen = {layers[index].name: (of, axis) for (index, axis, _), of in zip(chosen, split, strict=True)}
        return _fit(counts, capacity)

    def select(self, layer: MaskedLayer, scores: Tensor, kept: int) -> Tensor:
        """The mask of the `kept` highest scores in the chosen channels, bool (out, in); of equal ones the first."""
        indices, axis = self.chosen[layer.name]
        mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        return mask.index_copy_(axis, indices, top_k_mask(scores.index_select(axis, indices), kept))

    def part(self, layer: MaskedLayer) -> tuple[Tensor, int] | None:
        """The indices of the chosen channels and their axis; as many as a head has where none was chosen.

        None where no trial has shown that the model computes with fewer (`pruners/masks/trial.py`).
        """
        if not layer.narrows:
            return None
        return computed_channels(layer, *self.chosen[layer.name])


def computed_channels(layer: MaskedLayer, indices: Tensor, axis: int) -> tuple[Tensor, int]:
    """What a narrow layer computes with where these channels are chosen: attention can't have no head."""
    if not len(indices):
        indices = torch.arange(layer.weight.shape[axis] // max(1, layer.heads), device=indices.device)
    return indices, axis


def _missed(pair: Shared, scores: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """What each channel of a pair would be missed for, (channels,): its scores' excess in both matrices."""
    one, other = (_excess(scores[index], counts[index], axis) for index, axis in pair.sides)
    return one + other


def _excess(scores: Tensor, kept: int, axis: int) -> Tensor:
    """What scores exceed the threshold by, summed over each row (axis 0) or column (axis 1)."""
    return (scores - _threshold(scores.reshape(-1), kept)).clamp_(min=0).sum(1 - axis)


def _threshold(scores: Tensor, kept: int) -> float | Tensor:
    """The lowest of the `kept` highest scores; in large matrices of a sample, as all channels are measured by it."""
    stride = SAMPLE_STRIDE if scores.numel() >= SAMPLED_FROM else 1
    sample = scores[::stride]
    kept = min(max(1, round(kept / stride)), sample.numel())
    if sample.device.type == "cpu":
        return float(np.partition(sample.numpy(), sample.numel() - kept)[-kept])
    return sample.topk(kept, sorted=False).values.min()


def _afford(values: Tensor, costs: Sequence[int], budget: int, needed: int) -> Tensor:
    """The best units for which the budget of channels suffices, bool (units,); of equal ones the first.

    needed: channels that there must be, where that is more than what whole units leave of the budget.
    Raises ScoreError for a NaN.
    """
    if values.isnan().any():
        raise ScoreError("a score is NaN")
    taken: list[int] = []
    skipped: list[int] = []
    left = budget
    for unit in values.sort(descending=True, stable=True).indices.tolist():
        if costs[unit] <= left:
            taken.append(unit)
            left -= costs[unit]
            if not left:
                break
        else:
            skipped.append(unit)
    for unit in skipped:
        if budget - left >= needed:
            break
        taken.append(unit)
        left -= costs[unit]
    alive = torch.zeros(len(values), dtype=torch.bool)
    alive[taken] = True
    return alive


def _fit(counts: Sequence[int], capacity: Sequence[int]) -> list[int]:
    """`counts`, none above its capacity; what doesn't fit is spread over the room that others have."""
    fitted = [min(count, most) for count, most in zip(counts, capacity, strict=True)]
    surplus = sum(counts) - sum(fitted)
    if not surplus:
        return fitted
    room = sum(capacity) - sum(fitted)
    shares = [have + surplus * (most - have) / room for have, most in zip(fitted, capacity, strict=True)]
    return round_to_total(shares, capacity, sum(counts))
