"""mask.safetensors: one bit a weight, and nothing taken on trust when it is read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError, one_line, other_version
from smpcli.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "smp-mask"
VERSION = 1
# The library writes metadata in a random order. One key that holds everything keeps the bytes the same.
_KEY = "smp"
_MAX_DIMENSIONS = 4
# How to make a file of today's version from one of an older.
_REMAKE = {
    "smp-task": "export it again with `smp export RUN --format mask`",
    "smp-checkpoint": "leave out --resume to start over",
}


def write_masks(path: Path, masks: Mapping[str, Tensor]) -> None:
    """Write boolean masks: packed bits (`numpy.packbits`, row by row, first weight in the highest bit).

    The same masks make the same bytes, whatever the order of the mapping. Raises `TypeError` for a mask that isn't
    boolean, `ValueError` for one without an element or of more than four dimensions, `UserError` for a file that
    can't be written.
    """
    packed, shapes = pack(masks)
    write_described(path, packed, {"format": FORMAT, "version": VERSION, "shapes": shapes})


def pack(masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Packed bits (uint8) and shape of each mask; errors as for `write_masks`."""
    import numpy as np
    import torch

    packed, shapes = {}, {}
    for name, mask in masks.items():
        _check(name, mask)
        packed[name] = torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1)))
        shapes[name] = list(mask.shape)
    return packed, shapes


def compress(masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]], dict[str, str]]:
    """Payload (uint8) and shape of each mask, each in its shortest code, and the codes that aren't packed bits.

    Errors as for `write_masks`.
    """
    import torch

    from smpcli.runs.maskcode import PACKED, encode

    payloads, shapes, codes = {}, {}, {}
    for name, mask in masks.items():
        _check(name, mask)
        code, payload = encode(mask.detach().cpu().numpy())
        payloads[name] = torch.from_numpy(payload.copy())
        shapes[name] = list(mask.shape)
        if code != PACKED:
            codes[name] = code
    return payloads, shapes, codes


def _check(name: str, mask: Tensor) -> None:
    import torch

    if mask.dtype != torch.bool:
        raise TypeError(f"mask '{name}' is {mask.dtype}, not bool")
    if mask.numel() == 0 or not 1 <= mask.dim() <= _MAX_DIMENSIONS:
        raise ValueError(f"mask '{name}' has the shape {list(mask.shape)}")


def write_described(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and what is said about them (as JSON), whole or not at all and always the same bytes."""
    from safetensors.torch import save_file

    text = json.dumps(about, separators=(",", ":"), sort_keys=True)
    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, {_KEY: text})


def is_described(path: Path, format: str) -> bool:
    """Whether a file says that it is of this format, whatever else is in it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})[_KEY])
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError):
        return False
    return isinstance(about, dict) and about.get("format") == format


def read_masks(path: Path) -> dict[str, Tensor]:
    """Read masks as boolean tensors, sorted by name. Raises `UserError`."""
    masks, rest, _ = read_described(path, FORMAT, VERSION)
    if rest:
        raise UserError(f"damaged mask file {path}: the names of its shapes and of its matrices differ")
    return masks


def read_described(
    path: Path, format: str, version: int, what: str = "mask file"
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Masks (bool), other tensors and description of a file written by `write_described`, sorted by name.

    Masks are packed bits, or in the code that "codes" names (maskcode.py). Shapes are checked against the bytes that
    are there before anything is unpacked. Raises `UserError`.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    from smpcli.runs.maskcode import PACKED, decode

    def damaged(reason: str) -> UserError:
        return UserError(one_line(f"damaged {what} {path}: {reason}"))

    try:
        with safe_open(path, framework="pt") as file:
            about = _about(path, file.metadata() or {}, format, version, damaged)
            shapes = _shapes(about, damaged)
            names = sorted(file.keys())
            if not shapes.keys() <= set(names):
                raise damaged("the names of its shapes and of its matrices differ")
            codes = about.get("codes", {})
            if not isinstance(codes, dict) or not codes.keys() <= shapes.keys():
                raise damaged("its codes are of other matrices")
            masks = {}
            for name in sorted(shapes):
                stored = file.get_slice(name)
                if stored.get_dtype() != "U8":
                    raise damaged(f"'{name}' is {stored.get_dtype()}, not bytes (U8)")
                if len(stored.get_shape()) != 1:
                    raise damaged(f"'{name}' doesn't fit: its bytes have the shape {stored.get_shape()}")
                try:
                    mask = decode(codes.get(name, PACKED), file.get_tensor(name).numpy(), shapes[name])
                except ValueError as error:
                    raise damaged(f"'{name}' of shape {shapes[name]}: {error}") from None
                masks[name] = torch.from_numpy(mask)
            return masks, {name: file.get_tensor(name) for name in names if name not in shapes}, about
    except FileNotFoundError:
        raise UserError(f"there is no {what} {path}") from None
    except SafetensorError as error:
        raise damaged(str(error)) from None
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from None


def _about(
    path: Path, metadata: Mapping[str, str], format: str, version: int, damaged: Callable[[str], UserError]
) -> dict[str, Any]:
    try:
        about = json.loads(metadata[_KEY])
    except (KeyError, ValueError, RecursionError):
        raise damaged("it says nothing about its format: smp didn't write it") from None
    if not isinstance(about, dict) or about.get("format") != format:
        raise damaged("it says nothing about its format: smp didn't write it")
    if about.get("version") != version:
        raise other_version(path, about.get("version"), version, _REMAKE.get(format, "make it again"))
    return about


def _shapes(about: dict[str, Any], damaged: Callable[[str], UserError]) -> dict[str, list[int]]:
    shapes = about.get("shapes")
    if not isinstance(shapes, dict):
        raise damaged("it holds no shapes")
    for name, shape in shapes.items():
        # Not isinstance, to which True is an int; limits, so that no product of a file's numbers takes long.
        proper = isinstance(shape, list) and 1 <= len(shape) <= _MAX_DIMENSIONS
        if not proper or not all(type(n) is int and 0 < n < 2**40 for n in shape):
            raise damaged(f"'{name}' has no proper shape")
    return shapes
