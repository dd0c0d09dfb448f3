"""A BERT-like encoder whose blocks have matrices of any size: heads of different sizes, fewer neurons and inputs.

It needs torch alone, and everything that it computes with is in one flat mapping of tensors (docs/compact.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu, layer_norm, linear, relu, scaled_dot_product_attention, silu

from pruners.masks.architectures import ROLES
from smpcli.modeling.limits import Limits

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_new": partial(gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
    "silu": silu,
    "swish": silu,
    "tanh": torch.tanh,
}

# Inputs are gathered where less than this share of them is read; else the matrix gets columns of zeros in memory.
# (index_select takes some 4 ns a number, the multiplication that a dropped column saves 0.04 ns a row.)
WORTH_GATHERING = 0.6
# Heads are evened out inside the matrix where that makes it at most this much larger.
FEW_MISSING = 1.15
# All heads together, each as wide as the widest, are at most this much wider than the residual stream.
MOST_TIMES = 8


@dataclass(frozen=True)
class BlockSizes:
    """Query-key and value dimensions of each head, in the order of rows; without a query-key dimension, attention is
    uniform."""

    query_key: list[int]
    value: list[int]


@dataclass(frozen=True)
class Architecture:
    """What the tensors don't say. Saved as JSON, so plain values only.

    epsilon: of the encoder's LayerNorms; head_epsilon: of the head's, where it has one. padding_id: set where
    positions are counted from the token behind padding (RoBERTa). mask_id: the head reads at this token where a
    text has it, else at the first.
    """

    blocks: list[BlockSizes]
    activation: str
    epsilon: float
    head_activation: str
    head_epsilon: float = 0.0
    padding_id: int | None = None
    mask_id: int | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Architecture:
        """Raises TypeError or KeyError for what isn't an architecture."""
        return cls(**{**values, "blocks": [BlockSizes(**block) for block in values["blocks"]]})


class Tensors(nn.Module):
    """Named tensors that are computed with and never trained; "a.b" becomes the attribute a_b."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, tensors: Mapping[str, Tensor | None]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name.replace(".", "_"), tensor)


class CompactBlock(Tensors):
    """One block: attention, then the feed-forward part, each added to the residual stream and normalised.

    tensors: "query.weight" … "down.bias" of the six roles, "norm1.weight" … "norm2.bias", and, where a matrix's
    columns (rows) stand for only some dimensions of the residual stream, their indices as "query.reads", "up.reads"
    ("output.writes", "down.writes"); key and value read what query reads. In memory query, key and value are one
    matrix, and gathering is left out where it doesn't pay. last: of this block only one position a text is wanted.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        sizes: BlockSizes,
        activation: str,
        epsilon: float,
        last: bool = False,
    ) -> None:
        width_of_stream = len(tensors["norm1.bias"])
        read, read_up = (_reads(tensors, role, width_of_stream) for role in ("query", "up"))
        weights = {role: _widened(tensors, role, width_of_stream) for role in ROLES}
        found: dict[str, Tensor | None] = {
            **{f"{role}.weight": weights[role] for role in ("output", "up", "down")},
            **{f"{name}.bias": tensors[f"{name}.bias"] for name in ("output", "up", "down", "norm1", "norm2")},
            **{f"{name}.weight": tensors[f"{name}.weight"] for name in ("norm1", "norm2")},
            "attention.reads": read,
            "up.reads": read_up,
        }
        counts = {"query": sizes.query_key, "key": sizes.query_key, "value": sizes.value}
        _check_sizes(counts, weights, width_of_stream)
        width = max([1, *sizes.query_key, *sizes.value])
        # Which matrices are one: of the last block, queries are wanted at another position than keys and values.
        for name, roles in (("ask", ("query",)), ("answer", ("key", "value"))) if last else (("all", tuple(counts)),):
            weight = torch.cat([weights[role] for role in roles])
            bias = torch.cat([tensors[f"{role}.bias"] for role in roles])
            found |= _even(name, weight, bias, [counts[role] for role in roles], width)
        places = _places(sizes.value, width)
        found["mixed"] = places if len(places) * FEW_MISSING < width * len(sizes.value) else None
        if found["mixed"] is None:
            found["output.weight"] = _spread(weights["output"].T, places, width * len(sizes.value)).T.contiguous()
        super().__init__(found)
        self.heads, self.neurons, self.last = len(sizes.value), tensors["up.weight"].shape[0], last
        self.activation, self.epsilon = activation, epsilon

    def forward(self, x: Tensor, bias: Tensor, at: Tensor) -> Tensor:
        """x (batch, length, width), bias of scores (batch, 1, 1, length) -> (batch, length, width).

        at: position of each text whose output is wanted of the last block, (batch,): that gives (batch, 1, width).
        """
        here = x[torch.arange(len(x), device=x.device), at].unsqueeze(1) if self.last else x
        if self.heads:
            mixed = self._attend(x, here, bias)
            here = here + linear(mixed, self.output_weight, self.output_bias)
        else:
            here = here + self.output_bias
        here = layer_norm(here, here.shape[-1:], self.norm1_weight, self.norm1_bias, self.epsilon)
        if self.neurons:
            inner = ACTIVATIONS[self.activation](linear(_pick(here, self.up_reads), self.up_weight, self.up_bias))
            here = here + linear(inner, self.down_weight, self.down_bias)
        else:
            here = here + self.down_bias
        return layer_norm(here, here.shape[-1:], self.norm2_weight, self.norm2_bias, self.epsilon)

    def _attend(self, x: Tensor, here: Tensor, bias: Tensor) -> Tensor:
        """What each position mixes of the values, (batch, positions, value dimensions). The scale is in the query."""
        read = _pick(x, self.attention_reads)
        if self.last:
            (q,) = self._heads(_pick(here, self.attention_reads), "ask", 1)
            k, v = self._heads(read, "answer", 2)
        else:
            q, k, v = self._heads(read, "all", 3)
        mixed = scaled_dot_product_attention(q, k, v, bias, scale=1.0)
        return _pick(mixed.transpose(1, 2).flatten(2), self.mixed)

    def _heads(self, x: Tensor, name: str, parts: int) -> tuple[Tensor, ...]:
        """x (batch, length, …) -> `parts` times (batch, heads, length, width of the widest head)."""
        y = linear(x, getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))
        y = _pick(y, getattr(self, f"{name}_places"))
        return y.view(*y.shape[:2], parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


def _reads(tensors: Mapping[str, Tensor], role: str, width: int) -> Tensor | None:
    """The index by which the matrices that read with `role` gather their inputs; None where they take all."""
    index = tensors.get(f"{role}.reads")
    return index.long() if index is not None and len(index) < WORTH_GATHERING * width else None


def _widened(tensors: Mapping[str, Tensor], role: str, width: int) -> Tensor:
    """A role's matrix, with columns and rows of zeros for what it doesn't read or write, unless reading gathers."""
    weight = tensors[f"{role}.weight"]
    reader = "query" if role in ("key", "value") else role
    index = tensors.get(f"{reader}.reads")
    if index is not None and _reads(tensors, reader, width) is None:
        weight = _spread(weight.T, index.long(), width).T.contiguous()
    index = tensors.get(f"{role}.writes")
    return weight if index is None else _spread(weight, index.long(), width)


def _spread(rows: Tensor, places: Tensor, count: int) -> Tensor:
    """`count` rows: the ones given at their places, zeros elsewhere."""
    wide = rows.new_zeros(count, *rows.shape[1:])
    wide[places] = rows
    return wide


def _check_sizes(counts: Mapping[str, Sequence[int]], weights: Mapping[str, Tensor], width_of_stream: int) -> None:
    """Raise ValueError for heads that aren't those of the matrices: what is allocated depends on them."""
    for role, found in counts.items():
        if not all(type(count) is int and count >= 0 for count in found) or sum(found) != len(weights[role]):
            raise ValueError(f"the heads of {role} don't have as many rows as its matrix")
    heads, widest = len(counts["value"]), max([1, *counts["query"], *counts["value"]])
    if len(counts["query"]) != heads or heads * widest > MOST_TIMES * width_of_stream:
        raise ValueError("its heads are wider than the model")


def _places(counts: Sequence[int], width: int) -> Tensor:
    """Where the rows of each head lie when every head has `width` of them."""
    return torch.cat([torch.arange(0), *(head * width + torch.arange(count) for head, count in enumerate(counts))])


def _even(
    name: str, weight: Tensor, bias: Tensor, counts: Sequence[Sequence[int]], width: int
) -> dict[str, Tensor | None]:
    """The matrix of some roles, and the index that gives every head `width` outputs (None: it has them already).

    Missing ones are taken from one more row of zeros; where few are missing, they are rows of zeros themselves.
    """
    flat = [count for role in counts for count in role]
    places, total = _places(flat, width), width * len(flat)
    if len(places) * FEW_MISSING >= total:
        weight, bias = _spread(weight, places, total), _spread(bias, places, total)
        return {f"{name}.weight": weight, f"{name}.bias": bias, f"{name}.places": None}
    index = torch.full((total,), len(places))
    index[places] = torch.arange(len(places))
    return {
        f"{name}.weight": torch.cat([weight, weight.new_zeros(1, weight.shape[1])]),
        f"{name}.bias": torch.cat([bias, bias.new_zeros(1)]),
        f"{name}.places": index,
    }


def _pick(x: Tensor, reads: Tensor | None) -> Tensor:
    return x if reads is None else x.index_select(-1, reads)


class Embeddings(Tensors):
    """word + position (+ segment) embeddings, normalised and, where they are narrower than the encoder, projected."""

    def __init__(self, tensors: Mapping[str, Tensor], epsilon: float, padding_id: int | None) -> None:
        names = ("word", "position", "segment", "norm.weight", "norm.bias", "project.weight", "project.bias")
        super().__init__({name: tensors.get(name) for name in names})
        self.epsilon, self.padding_id = epsilon, padding_id

    @property
    def longest(self) -> int:
        """Tokens of the longest text that there are positions for."""
        before = 0 if self.padding_id is None else self.padding_id + 1
        return max(1, len(self.position) - before)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """(batch, length) -> (batch, length, width)."""
        if self.padding_id is None:
            places = self.position[: input_ids.shape[1]]
        else:
            real = (input_ids != self.padding_id).long()
            places = embedding(real.cumsum(1) * real + self.padding_id, self.position)
        x = embedding(input_ids, self.word) + places
        if self.segment is not None:
            x = x + (self.segment[0] if token_type_ids is None else embedding(token_type_ids, self.segment))
        x = layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias, self.epsilon)
        return x if self.project_weight is None else linear(x, self.project_weight, self.project_bias)


class Head(Tensors):
    """Dense layer, activation, (LayerNorm,) output: a stock classifier's, or label words' rows of an MLM head."""

    def __init__(self, tensors: Mapping[str, Tensor], activation: str, epsilon: float) -> None:
        names = ("dense.weight", "dense.bias", "norm.weight", "norm.bias", "out.weight", "out.bias")
        super().__init__({name: tensors.get(name) for name in names})
        self.activation, self.epsilon = activation, epsilon

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) -> (batch, labels)."""
        x = ACTIVATIONS[self.activation](linear(x, self.dense_weight, self.dense_bias))
        if self.norm_weight is not None:
            x = layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias, self.epsilon)
        return linear(x, self.out_weight, self.out_bias)


class CompactModel(nn.Module):
    """Token ids and masks (batch, length) -> logits (batch, labels), as `TaskModel` does; inference only.

    tensors: "embeddings.…", "blocks.0.…", "head.…", each part as its class says. The head reads one position, so the
    last block computes no other; all_positions: it does, as a stock model.
    Raises KeyError, ValueError or RuntimeError for tensors that don't fit the architecture.
    """

    def __init__(
        self, architecture: Architecture, tensors: Mapping[str, Tensor], all_positions: bool = False
    ) -> None:
        super().__init__()
        a = architecture
        self.embeddings = Embeddings(_under(tensors, "embeddings"), a.epsilon, a.padding_id)
        last = None if all_positions else len(a.blocks) - 1
        self.blocks = nn.ModuleList(
            CompactBlock(_under(tensors, f"blocks.{index}"), sizes, a.activation, a.epsilon, index == last)
            for index, sizes in enumerate(a.blocks)
        )
        self.head = Head(_under(tensors, "head"), a.head_activation, a.head_epsilon)
        self.mask_id = a.mask_id
        self.eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        x = self.embeddings(input_ids, token_type_ids)
        bias = self.score_bias(attention_mask, x.dtype)
        at = self.answer_position(input_ids)
        for block in self.blocks:
            x = block(x, bias, at)
        if not self.blocks[-1].last:
            x = x[torch.arange(len(x), device=x.device), at].unsqueeze(1)
        logits: Tensor = self.head(x[:, 0])
        return logits

    @property
    def limits(self) -> Limits:
        """What its tables have rows for."""
        e = self.embeddings
        return Limits(len(e.word), e.longest, None if e.segment is None else len(e.segment))

    @staticmethod
    def score_bias(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
        """What is added to attention scores: the lowest number at padding, else 0; (batch, 1, 1, length)."""
        return (1.0 - attention_mask[:, None, None, :].to(dtype)) * torch.finfo(dtype).min

    def answer_position(self, input_ids: Tensor) -> Tensor:
        """The one position of each text that the head reads, (batch,)."""
        if self.mask_id is None:
            return torch.zeros_like(input_ids[:, 0])
        # argmax of a row without it is 0: the first token.
        return (input_ids == self.mask_id).int().argmax(1)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
