"""The share of kept weights that are new since the evaluation before."""

from __future__ import annotations

import torch
from torch import nn

from pruners.masks.layer import MaskedLayer
from smpcli.training.turnover import Turnover


def layers() -> list[MaskedLayer]:
    return [MaskedLayer(f"layer.{index}", "dense", nn.Linear(5, 4)) for index in range(2)]


def keep(layer: MaskedLayer, *places: int) -> None:
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask.view(-1)[list(places)] = True
    layer.set_mask(mask)


def test_what_came_is_counted_over_all_that_is_kept() -> None:
    first, second = both = layers()
    turnover = Turnover(both)
    keep(first, 0, 1, 2, 3)
    keep(second, 0, 1)
    assert turnover.since_last() == {}
    # One of the first goes, one comes; the second loses one: 1 new of 5.
    keep(first, 0, 1, 2, 9)
    keep(second, 0)
    assert turnover.since_last() == {"turnover": 1 / 5}
    assert turnover.since_last() == {"turnover": 0.0}
    keep(first, 10, 11)
    keep(second, 12)
    assert turnover.since_last() == {"turnover": 1.0}


def test_weights_that_merely_leave_are_no_turnover() -> None:
    both = layers()
    turnover = Turnover(both)
    turnover.since_last()  # everything is kept
    for layer in both:
        keep(layer, 3)
    assert turnover.since_last() == {"turnover": 0.0}


def test_a_mask_that_is_changed_in_place_is_seen() -> None:
    both = layers()
    keep(both[0], 0)
    keep(both[1], 0)
    turnover = Turnover(both)
    turnover.since_last()
    both[0].mask.view(-1)[:2] = torch.tensor([False, True])
    assert turnover.since_last() == {"turnover": 0.5}


def test_a_dense_run_has_none() -> None:
    turnover = Turnover([])
    assert turnover.since_last() == turnover.since_last() == {}
