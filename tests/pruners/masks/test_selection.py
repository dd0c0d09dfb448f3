"""Top-k selection against a full stable sort in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pruners.masks.selection import _top_k_torch, top_k_mask

# Few different values: ties everywhere, both zeros, infinities, the smallest and largest numbers of float32.
TIED = st.sampled_from([-math.inf, -3.0, -1.0, -0.0, 0.0, 1e-45, 1.0, 3.4028234663852886e38, math.inf])
SPREAD = st.floats(allow_nan=False, width=32)


@st.composite
def matrices(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = draw(st_numpy.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=9))
    elements = draw(st.sampled_from([TIED, SPREAD, st.just(0.0)]))
    # No fill: each element is drawn, so that ties lie anywhere.
    return draw(st_numpy.arrays(np.float64, shape, elements=elements, fill=st.nothing())).astype(dtype)


def reference(values: np.ndarray, k: int) -> np.ndarray:
    """The first k of a stable descending sort; Python's sort is stable and takes -0.0 for equal to 0.0."""
    flat = values.reshape(-1).tolist()
    best = sorted(range(len(flat)), key=lambda index: -flat[index])[:k]
    mask = np.zeros(len(flat), dtype=bool)
    mask[best] = True
    return mask.reshape(values.shape)


@given(matrices(), st.data())
@settings(max_examples=300)
def test_equals_a_stable_full_sort(values: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, values.size))
    mask = top_k_mask(torch.from_numpy(values), k)
    assert mask.dtype == torch.bool
    assert mask.shape == values.shape
    assert np.array_equal(mask.numpy(), reference(values, k))


@given(matrices(), st.data())
@settings(max_examples=300)
def test_the_way_for_other_devices_equals_it_too(values: np.ndarray, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, values.size))
    mask = torch.empty(values.size, dtype=torch.bool)
    _top_k_torch(torch.from_numpy(values).view(-1), k, mask)
    assert np.array_equal(mask.numpy().reshape(values.shape), reference(values, k))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_matrix_of_the_size_of_a_real_one(dtype: torch.dtype) -> None:
    # Rounded to quarters: thousands of ties on both sides of the threshold.
    scores = (torch.randn(120, 200, generator=torch.Generator().manual_seed(1)) * 4).round().div(4).to(dtype)
    for k in (1, 2_400, 12_000, 23_999):
        expected = torch.zeros(scores.numel(), dtype=torch.bool)
        expected[scores.view(-1).sort(descending=True, stable=True).indices[:k]] = True
        assert torch.equal(top_k_mask(scores, k), expected.view_as(scores))


def test_ties_go_to_the_lowest_index() -> None:
    assert top_k_mask(torch.zeros(2, 3), 4).tolist() == [[True, True, True], [True, False, False]]
    assert top_k_mask(torch.tensor([0.0, 1.0, -0.0, 0.0]), 2).tolist() == [True, True, False, False]


def test_flat_index_is_that_of_the_matrix_as_it_is_read() -> None:
    # A transposed view: its memory runs the other way.
    scores = torch.zeros(3, 2).T
    assert top_k_mask(scores, 4).tolist() == [[True, True, True], [True, False, False]]


def test_all_none_and_nothing_to_choose_from() -> None:
    scores = torch.tensor([2.0, -math.inf])
    assert top_k_mask(scores, 0).tolist() == [False, False]
    assert top_k_mask(scores, 2).tolist() == [True, True]
    assert top_k_mask(torch.empty(0), 0).tolist() == []


def test_scores_stay_as_they_are() -> None:
    scores = torch.tensor([3.0, 1.0, 2.0], requires_grad=True)
    mask = top_k_mask(scores, 2)
    assert scores.tolist() == [3.0, 1.0, 2.0]
    assert not mask.requires_grad


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("k", range(6))
def test_a_nan_is_refused_wherever_it_is(place: int, k: int) -> None:
    scores = torch.tensor([5.0, -math.inf, 0.0, math.inf, 1.0])
    scores[place] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        top_k_mask(scores, min(k, 5))
    with pytest.raises(ValueError, match="NaN"):
        top_k_mask(scores.to(torch.float16), min(k, 5))


@pytest.mark.parametrize("k", [-1, 4])
def test_k_outside_the_matrix_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=r"within \[0, 3\]"):
        top_k_mask(torch.zeros(3), k)
