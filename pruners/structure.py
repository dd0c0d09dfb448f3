"""Channels: a limit on how many neurons and head dimensions keep a weight, so that whole rows and columns fall away.

A channel is what one matrix of a block writes and another reads: a neuron of the feed-forward part (row of the first
matrix, column of the second), a value dimension of a head (row of "value", column of the attention's output), a
query-key dimension of a head (row of "query" and of "key"). The two matrices share it: it lives or falls in both, and
what falls can be cut out of both without changing what the model computes.

Weights are still chosen one by one. Of each matrix's scores, the part above its threshold (the score of its last kept
weight) is summed over a channel: what the channel would be missed for. The channels with the highest sums may keep
weights, and those of the others are spent again among them. The straight-through gradient reaches every score, so a
channel that fell can come back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruners.allocation import round_to_total
from pruners.masking import MaskedLayer
from pruners.registry import PrunerError
from pruners.selection import top_k_mask

# The pairs of matrices that share channels, by the ends of their kinds in the architectures that have them, and the
# axis that is the channel in each: 0 rows, 1 columns.
_QUERY = ("self.query", "q_lin", "attn.q", "self.query_proj")
_KEY = ("self.key", "k_lin", "attn.k", "self.key_proj")
_VALUE = ("self.value", "v_lin", "attn.v", "self.value_proj")
_OUTPUT = ("attention.output.dense", "out_lin", "attn.o")
_UP = ("intermediate.dense", "ffn.lin1")
_DOWN = ("output.dense", "ffn.lin2")
_PAIRS = ((_QUERY, 0, _KEY, 0), (_VALUE, 0, _OUTPUT, 1), (_UP, 0, _DOWN, 1))


@dataclass(frozen=True)
class Shared:
    """Two layers that share channels, by their index, and the axis of each along which the channels lie."""

    first: int
    first_axis: int
    second: int
    second_axis: int


def find_channels(layers: Sequence[MaskedLayer]) -> list[Shared]:
    """The pairs of layers that share channels; every layer is in one. Raises PrunerError where that isn't so."""
    blocks: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        blocks.setdefault(layer.name.removesuffix(layer.kind), []).append(index)
    found: list[Shared] = []
    for members in blocks.values():
        for first_names, first_axis, second_names, second_axis in _PAIRS:
            first, second = _named(layers, members, first_names), _named(layers, members, second_names)
            if first is None or second is None:
                continue
            if layers[first].weight.shape[first_axis] == layers[second].weight.shape[second_axis]:
                found.append(Shared(first, first_axis, second, second_axis))
    if 2 * len(found) != len(layers):
        raise PrunerError(
            "structure needs blocks of query, key, value, output and two feed-forward matrices, as in BERT, RoBERTa, "
            "DistilBERT, ELECTRA or MPNet: leave it out for this model"
        )
    return found


def _named(layers: Sequence[MaskedLayer], members: Sequence[int], names: tuple[str, ...]) -> int | None:
    """The layer of a block whose kind is of these names; "attention.output.dense" is no "output.dense"."""
    for index in members:
        kind = layers[index].kind
        if kind.endswith(names) and (names is not _DOWN or not kind.endswith(_OUTPUT)):
            return index
    return None


class Channels:
    """Which channels may keep weights, chosen anew at every refresh of the masks."""

    def __init__(self, layers: Sequence[MaskedLayer]) -> None:
        self.pairs = find_channels(layers)
        self.sizes = [layers[pair.first].weight.shape[pair.first_axis] for pair in self.pairs]
        self.chosen: dict[str, tuple[Tensor, int]] = {}

    def restrict(
        self, layers: Sequence[MaskedLayer], scores: Sequence[Tensor], counts: Sequence[int], fraction: float
    ) -> list[int]:
        """Choose the channels, and return how many weights each layer keeps in them; the sum stays what it was.

        scores: what is ranked, (out, in) of each layer; counts: what each would keep without a limit; fraction: of
        all channels, at most this many keep weights (more only where the weights wouldn't fit into them).
        """
        total, kept = sum(self.sizes), sum(counts)
        fitting = math.ceil(kept * total / sum(score.numel() for score in scores))
        values = [
            _excess(scores[pair.first], counts[pair.first], pair.first_axis)
            + _excess(scores[pair.second], counts[pair.second], pair.second_axis)
            for pair in self.pairs
        ]
        best = top_k_mask(torch.cat(values), max(int(fraction * total), fitting))
        capacity = [0] * len(layers)
        for pair, mask, size in zip(self.pairs, torch.split(best, self.sizes), self.sizes, strict=True):
            for index, axis in ((pair.first, pair.first_axis), (pair.second, pair.second_axis)):
                self.chosen[layers[index].name] = mask, axis
                capacity[index] = int(mask.sum()) * (scores[index].numel() // size)
        return _fit(counts, capacity)

    def select(self, layer: MaskedLayer, scores: Tensor, kept: int) -> Tensor:
        """The mask of the `kept` highest scores in the chosen channels, bool (out, in); of equal ones the first."""
        channels, axis = self.chosen[layer.name]
        mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        if axis == 0:
            mask[channels] = top_k_mask(scores[channels], kept)
        else:
            mask[:, channels] = top_k_mask(scores[:, channels], kept)
        return mask


def _excess(scores: Tensor, kept: int, axis: int) -> Tensor:
    """What the `kept` highest scores exceed the threshold by, summed over each row (axis 0) or column (axis 1)."""
    if not kept:
        return scores.new_zeros(scores.shape[axis])
    flat = scores.reshape(-1)
    if flat.device.type == "cpu":
        threshold = float(np.partition(flat.numpy(), flat.numel() - kept)[-kept])
    else:
        threshold = float(flat.topk(kept).values[-1])
    return (scores - threshold).clamp_(min=0).sum(1 - axis)


def _fit(counts: Sequence[int], capacity: Sequence[int]) -> list[int]:
    """`counts`, none above its capacity; what doesn't fit is spread over the room that others have."""
    fitted = [min(count, most) for count, most in zip(counts, capacity, strict=True)]
    surplus = sum(counts) - sum(fitted)
    if not surplus:
        return fitted
    room = sum(capacity) - sum(fitted)
    shares = [have + surplus * (most - have) / room for have, most in zip(fitted, capacity, strict=True)]
    return round_to_total(shares, capacity, sum(counts))
