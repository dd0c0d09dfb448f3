"""The masks that SMP's authors release: one .npy of packed bits, read and written bit for bit.

A vector of uint8: `numpy.packbits` over the masks of all matrices, one after another in the order of their names as
strings, "bert.encoder.layer.0.attention.output.dense.mask_scores" and so on; so layer 10 comes before layer 2. Within
a matrix row by row, (out, in); 1 is kept; the last byte is filled up with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError
from smpcli.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

WANTED = "--mask takes a mask as SMP's authors release it"


def _order(names: Mapping[str, Any]) -> list[str]:
    return sorted(names, key=lambda name: f"{name}.mask_scores")


def write_npy(path: Path, masks: Mapping[str, Tensor]) -> None:
    """Write masks (bool, by the name of their matrix in the model) as the authors do."""
    import numpy as np

    bits = np.concatenate([masks[name].detach().cpu().numpy().reshape(-1) for name in _order(masks)])
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.packbits(bits), allow_pickle=False)


def read_npy(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The masks of matrices of these shapes, by name.

    What the file says of itself is checked against the shapes before anything of that size is allocated. Raises
    `UserError` for a file that isn't such a vector or belongs to another model.
    """
    from tokenize import TokenError

    import numpy as np
    import torch

    total = sum(math.prod(shape) for shape in shapes.values())
    wanted = (total + 7) // 8
    try:
        # Mapped, not read, as a header may claim any size; and nothing that np.load would take for a zip or a pickle.
        packed = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"there is no mask file {path}") from None
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, SyntaxError, OverflowError, TokenError):
        raise UserError(f"{path} is not a whole .npy file of numbers", WANTED) from None
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise UserError(f"{path} is not a vector of uint8", WANTED)
    if packed.size != wanted:
        raise UserError(
            f"{path} holds {packed.size:,} bytes of mask, where this model's {total:,} prunable weights take "
            f"{wanted:,}",
            "name the model that it was made from with --model",
        )
    bits = np.unpackbits(packed)
    if bits[total:].any():
        raise UserError(f"damaged mask file {path}: bits are set beyond its last weight")
    masks, start = {}, 0
    for name in _order(shapes):
        size = math.prod(shapes[name])
        masks[name] = torch.from_numpy(bits[start : start + size].view(np.bool_).reshape(shapes[name]))
        start += size
    return masks
