"""Small masked layers, without any model around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from pruners.masks.layer import MaskedLayer

MakeLayers = Callable[..., list[MaskedLayer]]


@pytest.fixture
def make_layers() -> MakeLayers:
    """make_layers([(out, in), …], kinds) -> masked layers with random weights in double precision."""

    def make(
        shapes: Sequence[tuple[int, int]], kinds: Sequence[str] | None = None, seed: int = 0
    ) -> list[MaskedLayer]:
        torch.manual_seed(seed)
        kinds = kinds or ["query"] * len(shapes)
        return [
            MaskedLayer(f"block.{index}.{kind}", kind, nn.Linear(inputs, out, dtype=torch.float64))
            for index, ((out, inputs), kind) in enumerate(zip(shapes, kinds, strict=True))
        ]

    return make
