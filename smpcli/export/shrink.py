"""Exact structural shrinking: from a pruned encoder block's matrices to smaller dense ones of the same function.

A *channel* is a number inside a block that one matrix writes and another reads: a neuron of the feed-forward part
(row of "up", column of "down"), a value dimension of a head (row of "value", column of "output"), a query-key
dimension of a head (row of "query" and of "key"). The residual stream between blocks isn't a channel: LayerNorm's
mean and variance read every dimension of it, so none can be dropped. But a matrix needn't read those where its
column is empty, nor write those where its row is empty (there it adds a constant, its bias).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pruners.masks.architectures import ROLES
from smpcli.modeling.compact_model import BlockSizes


@dataclass(frozen=True)
class Shrunk:
    """tensors: as `CompactBlock` takes them, without its norms. area: number of matrix elements."""

    tensors: dict[str, Tensor]
    sizes: BlockSizes

    @property
    def area(self) -> int:
        return sum(tensor.numel() for name, tensor in self.tensors.items() if name.endswith(".weight"))


def shrink(
    weights: Mapping[str, Tensor], biases: Mapping[str, Tensor], heads: int, activation: Callable[[Tensor], Tensor]
) -> Shrunk:
    """The smallest dense block that computes what `weights` (zeros in place) and `biases` compute.

    weights: role -> (out, in); biases: role -> (out,). What follows holds for every input:

    - Attention weights sum to 1, so the values' bias adds Wo bv to the output: into the output's bias. A value
      dimension with an empty row contributes nothing else, one with an empty column in "output" nothing at all:
      dropped. A head without value dimensions is dropped whole.
    - A key's bias adds q . bk to all scores of a query alike, which softmax doesn't see: it is 0 from here on, and a
      query-key dimension with an empty key row is dropped.
    - Query-key dimensions with an empty query row add bq[d] (Wk[d] . x_j) to the scores: one dimension, with a
      query of 1 and the key row sum(bq[d] Wk[d]), does it for all of them. Without any dimension, all scores are
      equal.
    - A neuron with an empty input row is activation(bias) for every token: into the output's bias. One without a
      reader is dropped.

    Scores are scaled by the root of the original head size; that goes into the query. Constants are computed in
    float64. Dropping a channel empties no row or column of another, but for the queries and keys of a head that is
    gone; so one pass in this order finds everything, and shrinking the result again changes nothing.
    """
    dtype = weights["query"].dtype
    w = {role: weights[role].detach().cpu().double() for role in ROLES}
    b = {role: biases[role].detach().cpu().double() for role in ROLES}
    value = _shrink_values(w, b, heads)
    query_key = _shrink_scores(w, b, heads, [count > 0 for count in value])
    _shrink_neurons(w, b, activation)
    tensors = _narrow(w)
    for role in ROLES:
        tensors |= {f"{role}.weight": w[role], f"{role}.bias": b[role]}
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in tensors.items()
    }
    return Shrunk(tensors, BlockSizes(query_key, [count for count in value if count]))


def _shrink_values(w: dict[str, Tensor], b: dict[str, Tensor], heads: int) -> list[int]:
    """Drop value dimensions; returns how many each head keeps."""
    b["output"] = b["output"] + w["output"] @ b["value"]
    alive = _rows(w["value"]) & _columns(w["output"])
    w["value"], w["output"] = w["value"][alive], w["output"][:, alive]
    b["value"] = torch.zeros(len(w["value"]), dtype=torch.float64)
    return [int(part.sum()) for part in alive.chunk(heads)]


def _shrink_scores(w: dict[str, Tensor], b: dict[str, Tensor], heads: int, wanted: list[bool]) -> list[int]:
    """Drop query-key dimensions; returns how many each wanted head keeps."""
    scale = (len(w["query"]) // heads) ** -0.5
    per_head = zip(w["query"].chunk(heads), b["query"].chunk(heads), w["key"].chunk(heads), strict=True)
    found = [_shrink_head(query * scale, bias * scale, key) for query, bias, key in per_head]
    found = [head for head, want in zip(found, wanted, strict=True) if want]
    nothing = w["query"][:0], b["query"][:0], w["key"][:0]
    w["query"], b["query"], w["key"] = (torch.cat(parts) for parts in zip(nothing, *found, strict=True))
    b["key"] = torch.zeros_like(b["query"])
    return [len(bias) for _, bias, _ in found]


def _shrink_head(query: Tensor, bias: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The smaller query rows, query biases and key rows of one head."""
    silent = ~_rows(query)
    alive = ~silent & _rows(key)
    constant = bias[silent] @ key[silent]
    if not constant.any():
        return query[alive], bias[alive], key[alive]
    return (
        torch.cat([query[alive], torch.zeros_like(constant)[None]]),
        torch.cat([bias[alive], torch.ones(1, dtype=bias.dtype)]),
        torch.cat([key[alive], constant[None]]),
    )


def _shrink_neurons(w: dict[str, Tensor], b: dict[str, Tensor], activation: Callable[[Tensor], Tensor]) -> None:
    """Drop neurons; the constant ones end up in the output's bias."""
    constant = ~_rows(w["up"])
    b["down"] = b["down"] + w["down"][:, constant] @ activation(b["up"][constant])
    alive = ~constant & _columns(w["down"])
    w["up"], b["up"], w["down"] = w["up"][alive], b["up"][alive], w["down"][:, alive]


def _narrow(w: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what matrices neither read nor write of the residual stream; returns the indices that remain."""
    indices: dict[str, Tensor] = {}
    for leader, roles in (("query", ("query", "key", "value")), ("up", ("up",))):
        filled = _columns(torch.cat([w[role] for role in roles]))
        if not filled.all():
            indices[f"{leader}.reads"] = filled.nonzero()[:, 0].int()
            for role in roles:
                w[role] = w[role][:, filled]
    for role in ("output", "down"):
        filled = _rows(w[role])
        if not filled.all():
            indices[f"{role}.writes"] = filled.nonzero()[:, 0].int()
            w[role] = w[role][filled]
    return indices


def _rows(weight: Tensor) -> Tensor:
    """Which rows hold a weight."""
    return (weight != 0).any(1)


def _columns(weight: Tensor) -> Tensor:
    """Which columns hold a weight."""
    return (weight != 0).any(0)
