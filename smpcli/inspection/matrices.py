"""What masks say: density of every matrix, what is empty, and what would be left if the empty parts went."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pruners.masks.architectures import ATTENTION, in_attention, role_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Matrix:
    """One masked matrix: its block, its type (path inside the block), counts. Rows are outputs, columns inputs."""

    name: str
    layer: int
    kind: str
    rows: int
    columns: int
    kept: int
    empty_rows: int
    empty_columns: int

    @property
    def size(self) -> int:
        return self.rows * self.columns

    @property
    def filled_area(self) -> int:
        """Elements left when this matrix's own empty rows and columns go."""
        return (self.rows - self.empty_rows) * (self.columns - self.empty_columns)


@dataclass(frozen=True)
class ChannelCounts:
    """Numbers inside blocks that one matrix writes and another reads; `gone` are those that carry nothing."""

    total: int
    gone: int


@dataclass(frozen=True)
class Compact:
    """What is left when empty parts go. area: elements of all matrices; compact_area: once channels go on both sides.

    heads, neurons: None where the blocks aren't of the known kind, or the number of heads isn't known.
    """

    area: int
    filled_area: int
    compact_area: int
    heads: ChannelCounts | None
    neurons: ChannelCounts | None


def places(names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Block and type of each matrix by its name: "encoder.layer.3.output.dense" is (3, "output.dense").

    The block is the first number in which the names differ (of a single block, the last number that they share).
    """
    parts = {name: name.split(".") for name in names}
    if not parts:
        return {}
    shared = 0
    while all(len(part) > shared + 1 for part in parts.values()) and len({p[shared] for p in parts.values()}) == 1:
        shared += 1
    first = next(iter(parts.values()))
    at = shared
    if not all(part[at].isdigit() for part in parts.values()):
        at = max((index for index in range(shared) if first[index].isdigit()), default=-1)
    return {name: (int(part[at]), ".".join(part[at + 1 :])) if at >= 0 else (0, name) for name, part in parts.items()}


def describe(masks: Mapping[str, Tensor]) -> list[Matrix]:
    """The matrices of some masks (bool, (out, in)), by block, and there as their names sort."""
    where = places(masks)
    found = []
    for name, mask in masks.items():
        bits = _bits(mask)
        layer, kind = where[name]
        rows, columns = bits.shape
        filled_rows, filled_columns = int(bits.any(1).sum()), int(bits.any(0).sum())
        found.append(
            Matrix(name, layer, kind, rows, columns, int(bits.sum()), rows - filled_rows, columns - filled_columns)
        )
    return sorted(found, key=lambda matrix: (matrix.layer, matrix.name))


def kinds(matrices: Sequence[Matrix]) -> list[str]:
    """The types in the order of a block: what attention reads first, what the feed-forward part writes last."""
    shapes = {matrix.kind: matrix for matrix in reversed(matrices)}

    def order(kind: str) -> tuple[int, str]:
        role = role_of(kind) or ("output" if in_attention(kind) else None)
        if role in ATTENTION:
            return ATTENTION.index(role), kind
        return len(ATTENTION) + (shapes[kind].rows <= shapes[kind].columns), kind

    return sorted(shapes, key=order)


def short(kind: str) -> str:
    """A type's name for the head of a column: "attn.self.query" for "attention.self.query"."""
    for long, less in (("attention", "attn"), ("intermediate", "inter")):
        kind = kind.replace(long, less)
    return kind.removesuffix(".dense")


def compact(masks: Mapping[str, Tensor], heads: int | None) -> Compact:
    """What `export --format compact` would leave, by the masks alone (biases are taken to be nonzero).

    A value dimension goes with an empty row of "value" or column of "output", a head with all of its value
    dimensions; a query-key dimension with an empty row of "key", and those with an empty row of "query" become one;
    a neuron with an empty row of "up" or column of "down". heads: of a block; None: not known.
    """
    import numpy as np

    where = places(masks)
    blocks: dict[int, dict[str, Mask]] = {}
    for name in sorted(masks):
        layer, kind = where[name]
        blocks.setdefault(layer, {})[kind] = _bits(masks[name])
    matrices = describe(masks)
    total_heads, gone_heads, total_neurons, gone_neurons, area = 0, 0, 0, 0, 0
    known_heads = known_neurons = bool(blocks)
    for block in blocks.values():
        attention, feed_forward, rest = _roles(block)
        if attention is not None and heads and len(attention["value"]) % heads == 0:
            left, gone = _shrink_attention(attention, heads)
            area, total_heads, gone_heads = area + left, total_heads + heads, gone_heads + gone
        else:
            known_heads = False
            area += sum(_filled(mask) for mask in (attention or {}).values())
        if feed_forward is not None:
            up, down = feed_forward
            alive: Mask = np.asarray(up.any(1) & down.any(0))
            area += _narrowed(up[alive], by_columns=True) + _narrowed(down[:, alive], by_columns=False)
            total_neurons, gone_neurons = total_neurons + len(alive), gone_neurons + int((~alive).sum())
        else:
            known_neurons = False
        area += sum(_filled(mask) for mask in rest)
    return Compact(
        area=sum(matrix.size for matrix in matrices),
        filled_area=sum(matrix.filled_area for matrix in matrices),
        compact_area=area,
        heads=ChannelCounts(total_heads, gone_heads) if known_heads else None,
        neurons=ChannelCounts(total_neurons, gone_neurons) if known_neurons else None,
    )


def _shrink_attention(masks: dict[str, Mask], heads: int) -> tuple[int, int]:
    """Elements left of the four matrices of attention, and heads that are gone."""
    import numpy as np

    value_alive: Mask = np.asarray(masks["value"].any(1) & masks["output"].any(0))
    wanted = value_alive.reshape(heads, -1).any(1)
    in_wanted = np.repeat(wanted, len(value_alive) // heads)
    query, key = masks["query"].any(1), masks["key"].any(1)
    alive = query & key & in_wanted
    merged = (~query & key & in_wanted).reshape(heads, -1).any(1).sum()
    dimensions = int(alive.sum() + merged)
    readers = masks["value"][value_alive], masks["key"][key & in_wanted], masks["query"][alive]
    inputs = int(np.concatenate(readers).any(0).sum())
    output = masks["output"][:, value_alive]
    area = inputs * (2 * dimensions + int(value_alive.sum())) + _narrowed(output, by_columns=False)
    return area, int((~wanted).sum())


def _narrowed(mask: Mask, by_columns: bool) -> int:
    """Elements left when empty columns (rows) on the residual stream's side go."""
    return int(mask.shape[0 if by_columns else 1]) * int(mask.any(0 if by_columns else 1).sum())


def _filled(mask: Mask) -> int:
    return int(mask.any(1).sum()) * int(mask.any(0).sum())


def _roles(block: Mapping[str, Mask]) -> tuple[dict[str, Mask] | None, tuple[Mask, Mask] | None, list[Mask]]:
    """Attention's matrices and the feed-forward part's (up, down), None where they aren't of that kind; others."""
    inside = {kind: mask for kind, mask in block.items() if in_attention(kind)}
    outside = [mask for kind, mask in block.items() if kind not in inside]
    attention = {role_of(kind) or "output": mask for kind, mask in inside.items()}
    complete = len(inside) == len(ATTENTION) == len(attention) and len({mask.shape for mask in inside.values()}) == 1
    ordered = sorted(outside, key=lambda mask: -mask.shape[0])
    pair = (
        len(ordered) == 2 and ordered[0].shape == ordered[1].shape[::-1] and ordered[0].shape[0] > ordered[0].shape[1]
    )
    rest = ([] if complete else list(inside.values())) + ([] if pair else ordered)
    return (attention if complete else None), ((ordered[0], ordered[1]) if pair else None), rest


def _bits(mask: Any) -> Mask:
    """(out, in) as numpy; a vector is one row."""
    bits: Mask = mask.numpy()
    return bits.reshape(bits.shape[0], -1) if bits.ndim != 1 else bits[None]
