"""Shrinking a block: the same function, nothing superfluous left. The reference is attention written out plainly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from pruners.masks.architectures import ROLES
from smpcli.export.shrink import shrink
from smpcli.modeling.compact_model import CompactBlock

WIDTH, INNER, HEADS = 12, 20, 3
SIZE = WIDTH // HEADS
SHAPES = dict.fromkeys(ROLES, (WIDTH, WIDTH)) | {"up": (INNER, WIDTH), "down": (WIDTH, INNER)}


def make(density: float, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    weights = {role: random(*shape) for role, shape in SHAPES.items()}
    for weight in weights.values():
        weight *= torch.rand(weight.shape, generator=draw) < density
    biases = {role: random(shape[0]) for role, shape in SHAPES.items()}
    norms = {f"norm{number}.{part}": random(WIDTH) for number in (1, 2) for part in ("weight", "bias")}
    return weights, biases, norms


def reference(x: Tensor, mask: Tensor, w: dict[str, Tensor], b: dict[str, Tensor], n: dict[str, Tensor]) -> Tensor:
    """A post-norm block (Vaswani et al. 2017), one text, head and query at a time."""
    out = torch.empty_like(x)
    for text in range(len(x)):
        length = int(mask[text].sum())
        mixed = torch.empty_like(x[text])
        for head in range(HEADS):
            part = slice(head * SIZE, (head + 1) * SIZE)
            q, k, v = (x[text] @ w[role][part].T + b[role][part] for role in ("query", "key", "value"))
            for place in range(x.shape[1]):
                weights = torch.exp(k[:length] @ q[place] / math.sqrt(SIZE))
                mixed[place, part] = (weights / weights.sum()) @ v[:length]
        here = x[text] + mixed @ w["output"].T + b["output"]
        here = layer_norm(here, (WIDTH,), n["norm1.weight"], n["norm1.bias"], 1e-5)
        inner = gelu(here @ w["up"].T + b["up"])
        here = here + inner @ w["down"].T + b["down"]
        out[text] = layer_norm(here, (WIDTH,), n["norm2.weight"], n["norm2.bias"], 1e-5)
    return out


def check(w: dict[str, Tensor], b: dict[str, Tensor], n: dict[str, Tensor]) -> None:
    small = shrink(w, b, HEADS, gelu)
    block, last = (CompactBlock({**small.tensors, **n}, small.sizes, "gelu", 1e-5, last) for last in (False, True))
    x = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    bias = (1.0 - mask[:, None, None, :].double()) * torch.finfo(torch.float64).min
    expected = reference(x, mask, w, b, n)
    at = torch.tensor([3, 0])
    torch.testing.assert_close(block(x, bias, at), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(last(x, bias, at)[:, 0], expected[[0, 1], at], rtol=0, atol=1e-12)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.03, 0.1, 0.3, 1.0])
def test_the_function_stays_whatever_falls(density: float) -> None:
    for seed in range(5):
        check(*make(density, seed))


def test_a_dense_block_keeps_all_its_matrices() -> None:
    small = shrink(*make(1.0)[:2], HEADS, gelu)
    assert small.area == sum(rows * columns for rows, columns in SHAPES.values())
    assert small.sizes.query_key == small.sizes.value == [SIZE] * HEADS


def test_an_empty_block_is_nothing_but_biases() -> None:
    small = shrink(*make(0.0)[:2], HEADS, gelu)
    assert small.area == 0
    assert small.sizes.query_key == small.sizes.value == []


def emptied(role: str, rows: slice | None = None, columns: slice | None = None) -> tuple[int, list[int], list[int]]:
    """Area lost, and the sizes left, when some rows or columns of a dense block are emptied."""
    w, b, n = make(1.0)
    if rows is not None:
        w[role][rows] = 0
    if columns is not None:
        w[role][:, columns] = 0
    check(w, b, n)
    small = shrink(w, b, HEADS, gelu)
    return sum(weight.numel() for weight in w.values()) - small.area, small.sizes.query_key, small.sizes.value


@pytest.mark.parametrize(
    ("role", "rows", "columns", "lost", "query_key", "value"),
    [
        # A neuron that is constant, and one that nobody reads: its row and its column.
        ("up", slice(3, 5), None, 2 * 2 * WIDTH, [4, 4, 4], [4, 4, 4]),
        ("down", None, slice(7, 8), 2 * WIDTH, [4, 4, 4], [4, 4, 4]),
        # A value dimension, from either side.
        ("value", slice(1, 2), None, 2 * WIDTH, [4, 4, 4], [3, 4, 4]),
        ("output", None, slice(5, 7), 4 * WIDTH, [4, 4, 4], [4, 2, 4]),
        # A whole head's values: its queries and keys go, too.
        ("value", slice(4, 8), None, 4 * SIZE * WIDTH, [4, 4], [4, 4]),
        # A key's row: the dimension goes.
        ("key", slice(8, 9), None, 2 * WIDTH, [4, 4, 3], [4, 4, 4]),
        ("key", slice(0, 4), None, 2 * SIZE * WIDTH, [0, 4, 4], [4, 4, 4]),
        # Query rows leave their bias: together one dimension.
        ("query", slice(0, 1), None, 0, [4, 4, 4], [4, 4, 4]),
        ("query", slice(0, 4), None, 2 * 3 * WIDTH, [1, 4, 4], [4, 4, 4]),
        # Rows of the two that write the residual stream (a sixth of them), and a column of one that reads it.
        ("output", slice(0, 2), None, 2 * WIDTH, [4, 4, 4], [4, 4, 4]),
        ("down", slice(0, 2), None, 2 * INNER, [4, 4, 4], [4, 4, 4]),
        ("up", None, slice(0, 2), 2 * INNER, [4, 4, 4], [4, 4, 4]),
    ],
)
def test_what_falls(
    role: str, rows: slice | None, columns: slice | None, lost: int, query_key: list[int], value: list[int]
) -> None:
    assert emptied(role, rows, columns) == (lost, query_key, value)


def test_queries_without_weight_or_bias_leave_uniform_attention() -> None:
    w, b, n = make(1.0)
    w["query"][:SIZE] = 0
    b["query"][:SIZE] = 0
    check(w, b, n)
    assert shrink(w, b, HEADS, gelu).sizes.query_key == [0, 4, 4]


def test_shrinking_again_changes_nothing() -> None:
    """Read as a block of one head, what was shrunk has no empty row or column left that could fall."""
    for seed in range(20):
        w, b, _ = make(0.08, seed)
        small = shrink(w, b, HEADS, gelu).tensors
        for first, second in (("value", "output"), ("up", "down")):
            assert (small[f"{first}.weight"] != 0).any(1).all()
            assert (small[f"{second}.weight"] != 0).any(0).all()
        assert (small["key.weight"] != 0).any(1).all()
        assert not small["key.bias"].any()
        assert not small["value.bias"].any()
