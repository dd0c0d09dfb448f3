"""The authors' masks, against a packing written here from the description of the format."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smpcli.errors import UserError
from smpcli.runs.released_masks import read_npy, write_npy

# In the order of "bert.encoder.layer.{i}.{matrix}.mask_scores" as strings: by hand.
LAYERS = [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
MATRICES = [
    "attention.output.dense",
    "attention.self.key",
    "attention.self.query",
    "attention.self.value",
    "intermediate.dense",
    "output.dense",
]
NAMES = [f"bert.encoder.layer.{layer}.{matrix}" for layer in LAYERS for matrix in MATRICES]


def shape_of(name: str) -> tuple[int, int]:
    # 5 x 7 bits and its like: bytes go across rows and matrices.
    return {"intermediate.dense": (11, 5), "output.dense": (5, 11)}.get(name.split(".", 4)[4], (5, 5))


def bert_masks() -> dict[str, torch.Tensor]:
    draw = random.Random(4)
    names = sorted(NAMES, key=lambda name: draw.random())
    return {name: torch.tensor(np.random.default_rng(len(name)).random(shape_of(name)) < 0.3) for name in names}


def packed_by_hand(masks: dict[str, torch.Tensor]) -> list[int]:
    """All masks one after another, row by row, eight to a byte, the first in the highest bit, zeros at the end."""
    bits = [int(bit) for name in NAMES for row in masks[name].tolist() for bit in row]
    bits += [0] * (-len(bits) % 8)
    return [sum(bit << (7 - place) for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)]


def test_the_file_is_the_description_s(tmp_path: Path) -> None:
    masks = bert_masks()
    write_npy(tmp_path / "mask.npy", masks)
    found = np.load(tmp_path / "mask.npy", allow_pickle=False)
    assert found.dtype == np.uint8 and found.ndim == 1
    assert found.tolist() == packed_by_hand(masks)


def test_a_file_of_theirs_is_read_and_written_again_bit_for_bit(tmp_path: Path) -> None:
    masks = bert_masks()
    np.save(tmp_path / "theirs.npy", np.array(packed_by_hand(masks), dtype=np.uint8))
    found = read_npy(tmp_path / "theirs.npy", {name: shape_of(name) for name in masks})
    assert found.keys() == masks.keys()
    for name, mask in masks.items():
        assert found[name].dtype == torch.bool and torch.equal(found[name], mask), name
    write_npy(tmp_path / "ours.npy", found)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**25 - 1)), min_size=1, max_size=12))
def test_any_masks_make_the_round_trip(tmp_path_factory: pytest.TempPathFactory, matrices: Any) -> None:
    masks = {
        f"layer.{index}.query": torch.tensor([bool(bits >> i & 1) for i in range(rows * columns)]).view(rows, columns)
        for index, (rows, columns, bits) in enumerate(matrices)
    }
    file = tmp_path_factory.getbasetemp() / "round.npy"
    write_npy(file, masks)
    found = read_npy(file, {name: tuple(mask.shape) for name, mask in masks.items()})
    assert all(torch.equal(found[name], mask) for name, mask in masks.items())


SHAPES = {"layer.0.query": (3, 5)}


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_npy(path, SHAPES)
    assert len(str(caught.value)) - len(str(path)) <= 220


def test_what_is_no_mask_of_this_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mask.npy"
    refused(file, "there is no mask file")
    refused(tmp_path, "can't read")
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr'", b"text"):
        file.write_bytes(content)
        refused(file, "is not a whole .npy file")
    for array in (np.zeros(2), np.zeros((1, 2), np.uint8), np.zeros(2, bool)):
        np.save(file, array)
        refused(file, "is not a vector of uint8")
    for size in (1, 3, 10_000):
        np.save(file, np.zeros(size, np.uint8))
        refused(file, rf"holds {size:,} bytes of mask, where this model's 15 prunable weights take 2; .* --model")
    np.save(file, np.array([255, 255], np.uint8))
    refused(file, "bits are set beyond")
    np.save(file, np.array([255, 254], np.uint8))
    assert read_npy(file, SHAPES)["layer.0.query"].all()


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    refused(tmp_path / "trap.npy", "is not a whole .npy file")
    assert not (tmp_path / "sprung").exists()


def test_a_header_that_claims_terabytes_allocates_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mask.npy"
    np.save(file, np.zeros(2, np.uint8))
    honest = file.read_bytes()
    assert honest.count(b"(2,), }") == 1
    # Header lengths stay: spaces behind it give way.
    file.write_bytes(honest.replace(b"(2,), }" + b" " * 13, b"(99999999999999,), }"))
    refused(file, "is not a whole .npy file")
