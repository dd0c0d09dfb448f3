from __future__ import annotations

import json
import math
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import short, tensor_file
from hypothesis import given
from hypothesis import strategies as st

from smpcli.errors import UserError
from smpcli.runs.maskfile import read_masks, write_masks


def pack(bits: list[bool]) -> bytes:
    """Bits to bytes, written plainly: the first bit is worth 128, missing ones are 0."""
    packed = bytearray((len(bits) + 7) // 8)
    for place, bit in enumerate(bits):
        if bit:
            packed[place // 8] += 2 ** (7 - place % 8)
    return bytes(packed)


def about(shapes: Any, **changes: Any) -> dict[str, str]:
    return {"smp": json.dumps({"format": "smp-mask", "version": 1, "shapes": shapes, **changes})}


def take_apart(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


shapes = st.one_of(
    st.tuples(st.integers(1, 40)),
    st.tuples(st.integers(1, 17), st.integers(1, 17)),
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
)


@st.composite
def some_masks(draw: st.DrawFn) -> dict[str, tuple[tuple[int, ...], list[bool]]]:
    names = draw(st.lists(st.text("abclyerq.0123é", min_size=1, max_size=12), unique=True, max_size=4))
    found: dict[str, tuple[tuple[int, ...], list[bool]]] = {}
    for name in names:
        shape: tuple[int, ...] = draw(shapes)
        size = math.prod(shape)
        found[name] = (shape, draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    return found


@given(some_masks())
def test_the_file_holds_packed_bits_and_they_come_back(plain: dict[str, tuple[tuple[int, ...], list[bool]]]) -> None:
    masks = {name: torch.tensor(bits).reshape(shape) for name, (shape, bits) in plain.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.safetensors"
        write_masks(path, masks)
        header, data = take_apart(path.read_bytes())
        metadata = json.loads(header.pop("__metadata__")["smp"])
        assert metadata == {
            "format": "smp-mask", "version": 1, "shapes": {name: list(shape) for name, (shape, _) in plain.items()},
        }  # fmt: skip
        assert sorted(header) == sorted(plain)
        for name, (_, bits) in plain.items():
            begin, end = header[name]["data_offsets"]
            assert (header[name]["dtype"], header[name]["shape"]) == ("U8", [end - begin])
            assert data[begin:end] == pack(bits)
        # And a file that this test wrote, read back.
        path.write_bytes(
            tensor_file(
                {name: ("U8", [(len(bits) + 7) // 8], pack(bits)) for name, (_, bits) in plain.items()},
                about({name: list(shape) for name, (shape, _) in plain.items()}),
            )
        )
        found = read_masks(path)
    assert list(found) == sorted(plain)
    for name, mask in masks.items():
        assert found[name].dtype == torch.bool
        assert torch.equal(found[name], mask)


def test_the_same_masks_make_the_same_bytes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = {f"layer.{i}": torch.rand(5, 9, generator=generator) < 0.5 for i in range(12)}
    reverse = {name: masks[name] for name in reversed(masks)}
    contents = set()
    for number in range(8):
        write_masks(tmp_path / str(number), masks if number % 2 else reverse)
        contents.add((tmp_path / str(number)).read_bytes())
    assert len(contents) == 1


def test_a_transposed_mask_is_stored_row_by_row(tmp_path: Path) -> None:
    mask = (torch.arange(6).reshape(2, 3) % 2 == 0).T
    write_masks(tmp_path / "m", {"a": mask})
    assert torch.equal(read_masks(tmp_path / "m")["a"], mask)
    # Rows of the transposed matrix: 1 0 | 0 1 | 1 0.
    assert (tmp_path / "m").read_bytes()[-1:] == bytes([0b10011000])


def test_only_boolean_matrices_are_written(tmp_path: Path) -> None:
    for error, mask in (
        (TypeError, torch.ones(2, 2)),
        (TypeError, torch.ones(2, 2, dtype=torch.uint8)),
        (ValueError, torch.ones(0, 2, dtype=torch.bool)),
        (ValueError, torch.tensor(True)),
    ):
        with pytest.raises(error, match="mask 'a'"):
            write_masks(tmp_path / "m", {"a": mask})
    assert list(tmp_path.iterdir()) == []


U8 = ("U8", [2], b"\xff\x80")  # nine bits, all set


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "header"),
        (b"{}", "header"),
        (struct.pack("<Q", 2**62) + b"{}", "header"),
        (tensor_file({"a": U8}, about({"a": [3, 3]}))[:-1], "incomplete"),
        (tensor_file({"a": U8}, about({"a": [3, 3]})) + b"x", "incomplete"),
        (tensor_file({"a": U8}), "didn't write it"),
        (tensor_file({"a": U8}, {}), "didn't write it"),
        (tensor_file({"a": U8}, {"format": "pt"}), "didn't write it"),
        (tensor_file({"a": U8}, {"smp": "{"}), "didn't write it"),
        (tensor_file({"a": U8}, {"smp": "[" * 100_000}), "didn't write it"),
        (tensor_file({"a": U8}, {"smp": "[]"}), "didn't write it"),
        (tensor_file({"a": U8}, about({"a": [3, 3]}, format="other")), "didn't write it"),
        (tensor_file({"a": U8}, about({"a": [3, 3]}, version=2)), "has version 2 and this smp reads 1; upgrade"),
        (tensor_file({"a": U8}, about({"a": [3, 3]}, version="1")), "has version '1' and"),
        (tensor_file({"a": U8}, about({"a": [3, 3]}, version=None)), "has version None and"),
        (tensor_file({"a": U8}, about([3, 3])), "no shapes"),
        (tensor_file({"a": U8}, about({})), "names"),
        (tensor_file({}, about({"a": [3, 3]})), "names"),
        (tensor_file({"a": U8}, about({"b": [3, 3]})), "names"),
        (tensor_file({"a": U8}, about({"a": [3, 3], "b": [1]})), "names"),
        (tensor_file({"a": U8}, about({"a": 9})), "no proper shape"),
        (tensor_file({"a": U8}, about({"a": []})), "no proper shape"),
        (tensor_file({"a": U8}, about({"a": [9.0]})), "no proper shape"),
        (tensor_file({"a": U8}, about({"a": [True, 9]})), "no proper shape"),
        (tensor_file({"a": U8}, about({"a": ["9"]})), "no proper shape"),
        (tensor_file({"a": U8}, about({"a": [-3, -3]})), "no proper shape"),
        (tensor_file({"a": ("U8", [0], b"")}, about({"a": [0, 3]})), "no proper shape"),
        (tensor_file({"a": U8}, about({"a": [10**4000]})), "no proper shape"),
        (tensor_file({"a": U8}, about({"a": [3] * 100_000})), "no proper shape"),
        # 10^12 bits, of which the file brings two bytes.
        (tensor_file({"a": U8}, about({"a": [10**6, 10**6]})), "doesn't fit"),
        (tensor_file({"a": U8}, about({"a": [2**39, 2**39, 2**39, 2**39]})), "doesn't fit"),
        (tensor_file({"a": ("U8", [2, 1], b"\xff\x80")}, about({"a": [3, 3]})), "doesn't fit"),
        (tensor_file({"a": U8}, about({"a": [2, 4]})), "doesn't fit"),
        (tensor_file({"a": U8}, about({"a": [17]})), "doesn't fit"),
        (tensor_file({"a": ("I8", [2], b"\x01\x00")}, about({"a": [3, 3]})), "I8"),
        (tensor_file({"a": ("BOOL", [2], b"\x01\x00")}, about({"a": [3, 3]})), "BOOL"),
        (tensor_file({"a": ("F32", [2], bytes(8))}, about({"a": [3, 3]})), "F32"),
        (tensor_file({"a": ("U8", [2], b"\xff\xc0")}, about({"a": [3, 3]})), "beyond its last weight"),
        (tensor_file({"a": ("U8", [2], b"\xff\x81")}, about({"a": [3, 3]})), "beyond its last weight"),
    ],
    ids=short,
)
def test_nothing_in_a_file_is_taken_on_trust(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "mask.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"(?s)(damaged mask file .*|mask.safetensors ){reason}") as error:
        read_masks(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) <= 300


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    size = 10**12 // 8
    header = json.dumps(
        {
            "__metadata__": about({"a": [10**6, 10**6]}),
            "a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
        }
    ).encode()
    path = tmp_path / "mask.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\xff")
    with pytest.raises(UserError, match="damaged mask file"):
        read_masks(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no mask file"):
        read_masks(tmp_path / "none")
    with pytest.raises(UserError, match="can't read"):
        read_masks(tmp_path)
