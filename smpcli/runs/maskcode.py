"""The codec of the mask format: a mask in about its entropy, decoded by whole-array arithmetic (docs/exports.md).

Gaps between the rarer of kept and pruned weights, as bytes, Huffman-coded by zlib: geometric gaps are what Huffman
codes do best, so independent masks cost 1.01 times their entropy, and learned ones less, as rows and columns differ.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKED, DEFLATED = "packed", "deflated"
# gaps between kept or pruned weights, row by row or column by column
GAPS = ("gaps", "gaps-columns", "gaps-pruned", "gaps-pruned-columns")
CODES = (PACKED, DEFLATED, *GAPS)
# No payload stands for more weights than this a byte, so a small file can't claim a huge mask.
MOST_PER_BYTE = 4096
# What a code has to save, as naming it costs bytes too.
_WORTH = 64
_RUN = 255


def encode(mask: NDArray[np.bool_]) -> tuple[str, NDArray[np.uint8]]:
    """The shortest code of a boolean array, and its payload (uint8); never longer than packed bits."""
    packed = np.packbits(mask.reshape(-1))
    best: tuple[str, NDArray[np.uint8]] = PACKED, packed
    limit = len(packed) - _WORTH
    for code, stream in _candidates(mask, packed):
        payload = _huffman(stream, -(-mask.size // MOST_PER_BYTE))
        if len(payload) < limit:
            best, limit = (code, payload), len(payload)
    return best


def decode(code: str, payload: NDArray[np.uint8], shape: Sequence[int]) -> NDArray[np.bool_]:
    """The mask, of this shape, that a payload stands for. Raises `ValueError`, before memory is taken."""
    size = math.prod(shape)
    if code == PACKED:
        return _unpack(payload, size).reshape(shape)
    if size > MOST_PER_BYTE * len(payload):
        raise ValueError(f"it doesn't fit its {len(payload)} bytes")
    if code == DEFLATED:
        return _unpack(_inflate(payload, (size + 7) // 8), size).reshape(shape)
    if code not in GAPS:
        raise ValueError(f"its code '{code}' is not one of {', '.join(CODES)}")
    pruned, columns = "pruned" in code, code.endswith("columns")
    flat = np.full(size, pruned)
    flat[_positions(_inflate(payload, size), size)] = not pruned
    # Column by column is row by row of the transposed matrix.
    return np.ascontiguousarray(flat.reshape(shape[::-1]).T) if columns else flat.reshape(shape)


def _candidates(mask: NDArray[np.bool_], packed: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Byte streams to be Huffman-coded, each with the name of its code."""
    pruned = 2 * int(np.count_nonzero(mask)) > mask.size
    rarer = ~mask if pruned else mask
    share = np.count_nonzero(rarer) / mask.size
    # Where half of the weights remain, gaps come to no more than the bits, and take ten times as long.
    if share > 0.3:
        yield DEFLATED, packed
    if share < 0.45:
        name = "gaps-pruned" if pruned else "gaps"
        yield name, _gaps(rarer.reshape(-1))
        yield f"{name}-columns", _gaps(rarer.T.reshape(-1))


def _gaps(flat: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """How many are skipped before each one that is set: a byte below 255, after a byte 255 for every 255 of them."""
    gaps = np.diff(np.flatnonzero(flat), prepend=-1) - 1
    runs = gaps // _RUN
    stream = np.full(len(gaps) + int(runs.sum()), _RUN, dtype=np.uint8)
    stream[np.arange(len(gaps)) + np.cumsum(runs)] = gaps % _RUN
    return stream


def _positions(stream: NDArray[np.uint8], size: int) -> NDArray[Any]:
    """The inverse of `_gaps`: which of `size` places are set."""
    last = stream != _RUN
    # A run of 255 moves on by 255, everything else by its gap and the place that is set.
    ends = np.cumsum(stream + last.astype(np.uint16), dtype=np.int64)
    if len(ends) and ends[-1] > size:
        raise ValueError("its gaps lead beyond its last weight")
    found: NDArray[Any] = ends[last] - 1
    return found


def _huffman(stream: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """RFC 1950 with Huffman codes alone, filled up with zeros to `least` bytes."""
    # Matches of gaps are chance, and cost more than they save.
    coder = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    coded = coder.compress(stream.tobytes()) + coder.flush()
    return np.frombuffer(coded.ljust(least, b"\0"), dtype=np.uint8)


def _inflate(payload: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """What `_huffman` coded, of at most `most` bytes."""
    decoder = zlib.decompressobj()
    try:
        # One more than allowed, so that too much is seen without being unpacked.
        stream = decoder.decompress(payload.tobytes(), most + 1)
    except zlib.error as error:
        raise ValueError(f"its payload is damaged ({error})") from None
    if not decoder.eof or len(stream) > most or decoder.unused_data.strip(b"\0"):
        raise ValueError("its payload is cut off or too long")
    return np.frombuffer(stream, dtype=np.uint8)


def _unpack(packed: NDArray[np.uint8], size: int) -> NDArray[np.bool_]:
    if len(packed) != (size + 7) // 8:
        raise ValueError(f"it doesn't fit its {len(packed)} bytes")
    bits = np.unpackbits(packed)
    if bits[size:].any():
        raise ValueError("it has bits set beyond its last weight")
    return bits[:size].view(np.bool_)
