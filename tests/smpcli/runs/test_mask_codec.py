"""The codec of the mask format: what docs/exports.md says, in about the entropy, and nothing taken on trust."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from smpcli.runs.maskcode import CODES, MOST_PER_BYTE, decode, encode

Mask = NDArray[np.bool_]


def slow_decode(code: str, payload: bytes, rows: int, columns: int) -> Mask:
    """The format as docs/exports.md tells it, one weight at a time."""
    if code in ("packed", "deflated"):
        data = payload if code == "packed" else zlib.decompressobj().decompress(payload)
        bits = [byte >> (7 - bit) & 1 for byte in data for bit in range(8)]
        return np.array(bits[: rows * columns], dtype=bool).reshape(rows, columns)
    rarer = "pruned" not in code
    flat = [not rarer] * (rows * columns)
    place = 0
    for byte in zlib.decompressobj().decompress(payload):
        place += byte
        if byte < 255:
            flat[place] = rarer
            place += 1
    mask = np.array(flat, dtype=bool)
    return mask.reshape(columns, rows).T if code.endswith("columns") else mask.reshape(rows, columns)


def entropy_bytes(mask: Mask) -> float:
    share = float(mask.mean())
    if share in (0.0, 1.0):
        return 0.0
    return -mask.size * (share * math.log2(share) + (1 - share) * math.log2(1 - share)) / 8


@pytest.mark.parametrize("density", [0.01, 0.03, 0.1, 0.2, 0.3, 0.37, 0.4, 0.45, 0.5, 0.55, 0.63, 0.8, 0.97])
def test_independent_masks_cost_their_entropy(density: float) -> None:
    mask = np.random.default_rng(1).random((768, 1536)) < density
    code, payload = encode(mask)
    assert len(payload) <= 1.05 * entropy_bytes(mask)
    assert len(payload) <= mask.size / 8
    assert np.array_equal(slow_decode(code, payload.tobytes(), *mask.shape), mask)
    assert np.array_equal(decode(code, payload, mask.shape), mask)


def test_a_mask_with_structure_costs_less_than_its_entropy() -> None:
    """Columns of different densities, as learned masks have them: coded along the columns."""
    random = np.random.default_rng(2)
    mask = random.random((768, 768)) < random.choice([0.005, 0.3], size=768)
    code, payload = encode(mask)
    assert code == "gaps-columns" and len(payload) < 0.85 * entropy_bytes(mask)
    turned, _ = encode(mask.T)
    assert turned == "gaps"


def test_every_code_is_used() -> None:
    random = np.random.default_rng(3)
    used = set()
    for density in (0.03, 0.4, 0.5, 0.97):
        for shape in ((200, 300), (300, 200)):
            # Rows that differ, then columns that differ.
            varied = random.choice([0.4 * density, 1.0 * density], size=(shape[0], 1))
            for mask in (random.random(shape) < varied, (random.random(shape[::-1]) < varied.T)):
                for either in (mask, ~mask, random.random(shape) < density):
                    code, payload = encode(either)
                    assert np.array_equal(slow_decode(code, payload.tobytes(), *either.shape), either)
                    used.add(code)
    assert used == set(CODES)


@given(arrays(np.bool_, array_shapes(max_dims=4, max_side=40)))
def test_any_mask_comes_back(mask: Mask) -> None:
    code, payload = encode(mask)
    assert len(payload) <= -(-mask.size // 8)
    found = decode(code, payload, mask.shape)
    assert found.dtype == np.bool_ and np.array_equal(found, mask)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((900, 1000), bool),
        np.ones((900, 1000), bool),
        np.eye(1000, dtype=bool),
        ~np.eye(1000, dtype=bool),
        # gaps of exactly 254, 255, 256, 510 and 511, where runs of 255 begin and end
        np.isin(np.arange(1000 * 10), np.cumsum([255, 256, 257, 511, 512, 600])).reshape(1000, 10),
    ],
    ids=["empty", "full", "diagonal", "all but the diagonal", "run lengths"],
)
def test_extremes_come_back(mask: Mask) -> None:
    code, payload = encode(mask)
    assert mask.size <= MOST_PER_BYTE * len(payload)
    assert np.array_equal(decode(code, payload, mask.shape), mask)
    assert np.array_equal(slow_decode(code, payload.tobytes(), *mask.shape), mask)


def deflated(*data: int, tail: bytes = b"") -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(bytes(data)) + tail, np.uint8)


@pytest.mark.parametrize(
    ("code", "payload", "shape", "reason"),
    [
        ("gaps", deflated(), (10**6, 10**6), "doesn't fit"),
        ("packed", deflated(), (10**6, 10**6), "doesn't fit"),
        ("deflated", deflated(), (10**6, 10**6), "doesn't fit"),
        ("gaps-columns", np.zeros(0, np.uint8), (1, 1), "doesn't fit"),
        ("gaps", deflated(5, 4), (2, 5), "beyond its last weight"),
        ("gaps", deflated(255), (2, 5), "beyond its last weight"),
        ("gaps", deflated(*[0] * 11), (2, 5), "too long"),
        ("gaps", deflated(0)[:-1], (2, 5), "cut off"),
        ("gaps", deflated(0, tail=b"\0\1"), (2, 5), "too long"),
        ("gaps", np.frombuffer(b"no zlib stream", np.uint8), (2, 5), "damaged"),
        ("deflated", deflated(0), (2, 5), "doesn't fit"),
        ("deflated", deflated(0, 0, 0), (2, 5), "too long"),
        ("deflated", deflated(0, 1), (2, 5), "beyond its last weight"),
        ("lzma", deflated(0), (2, 5), "not one of packed"),
        (["gaps"], deflated(0), (2, 5), "not one of packed"),
    ],
)
def test_nothing_is_taken_on_trust(
    code: str, payload: NDArray[np.uint8], shape: tuple[int, int], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        decode(code, payload, shape)


def test_padding_is_no_content() -> None:
    assert decode("gaps", deflated(3, tail=b"\0" * 9), (2, 5)).reshape(-1).tolist() == [0, 0, 0, 1] + [0] * 6


def test_a_bomb_is_not_unpacked(peak_of: Callable[[Callable[[], object]], int]) -> None:
    """10 KB that unpack to 10 MB, for a mask of 40,000 weights: refused, and never unpacked as a whole."""
    bomb = np.frombuffer(zlib.compress(bytes(10_000_000), 9), np.uint8)
    assert len(bomb) < 10_240

    def refused() -> None:
        with pytest.raises(ValueError, match="too long"):
            decode("gaps", bomb, (200, 200))

    assert peak_of(refused) < 1_000_000


def test_a_claim_takes_no_memory(peak_of: Callable[[Callable[[], object]], int]) -> None:
    """10 KB that claim 10^12 weights are refused before anything of that size exists."""
    for code in CODES:
        payload = np.zeros(10_240, np.uint8)

        def refused(code: str = code, payload: NDArray[np.uint8] = payload) -> None:
            with pytest.raises(ValueError, match="doesn't fit"):
                decode(code, payload, (10**6, 10**6))

        assert peak_of(refused) < 100_000


@pytest.fixture
def peak_of() -> Callable[[Callable[[], object]], int]:
    """Most bytes that Python and numpy have taken at one time during a call."""
    import tracemalloc

    def measure(action: Callable[[], object]) -> int:
        tracemalloc.start()
        try:
            action()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure
