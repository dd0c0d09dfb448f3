"""The rules of `allocation.py` for counts that stay on an accelerator, as vectors: nothing here waits for an answer.

Each equals the rule of the same name there, which is written plainly and is the reference in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pruners.masks import allocation
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import Stacks, pieces, scores_of, stacks_of

# Nothing that is learned comes near it, and a hundred of it added up are still a number.
TINY = 1e-300


def round_to_total(shares: Tensor, total: int, places: Tensor) -> Tensor:
    """Whole numbers near `shares` that sum to `total` (largest remainders first), none above the share rounded up.

    shares: (n,) float64, which sum to `total` but for rounding; places: 0, 1, … n - 1, float64. Ties go to the lower
    index. Returns (n,) float64.
    """
    whole = shares.floor()
    order = (whole - shares).sort(stable=True).indices
    # Those next in line get one more: a share without a remainder comes last and gets none.
    extra = torch.lt(places, total - whole.sum(), out=torch.empty_like(whole))
    return whole.index_add_(0, order, extra)


class KindShares:
    """SMP-S's densities (eq. 4), for models whose kinds of matrix have as many layers each, of one size."""

    def __init__(self, kinds: Sequence[str], sizes: Sequence[int], stacks: Stacks) -> None:
        members = [[i for i, other in enumerate(kinds) if other == kind] for kind in dict.fromkeys(kinds)]
        self.uniform = len({len(group) for group in members}) == 1 and all(
            len({sizes[i] for i in group}) == 1 for group in members
        )
        if not self.uniform:
            return
        self.sizes = [sizes[group[0]] for group in members]
        self.layers = len(members[0])
        self.total = sum(sizes)
        place = [i for group in members for i in group]
        device = stacks.device
        # From the stacks' rows to kinds, and from kinds to the layers' order.
        row = {layer: number for number, layer in enumerate(stacks.places)}
        self.gather = torch.tensor([row[i] for i in place], device=device)
        self.back = torch.tensor([place.index(i) for i in range(len(kinds))], device=device)
        self.size = torch.tensor(self.sizes, dtype=torch.float64, device=device)[:, None]
        self.tiny = torch.tensor([TINY], dtype=torch.float64, device=device)
        self.places = torch.arange(len(kinds), dtype=torch.float64, device=device)
        # -m, where the sum is that of the least important, then of one more, … of all.
        self.full = torch.arange(1 - self.layers, 1, dtype=torch.float64, device=device)

    def counts(self, importance: Tensor, kept: int) -> Tensor:
        """Kept weights of each layer, (layers,) float64; `importance` in the order of the stacks' rows.

        Clamping densities at 1 is water-filling. With the m most important layers of a kind full, the others have
        density r * (left - m) / sum(r of the others), in layers' worth of weights; the level (left - m) / sum that
        clamping ends at is the highest over m, as it rises while the next layer is above 1 and falls from there.
        A NaN counts as the least of all, so that all counts stay within their capacities.
        """
        # One operation: as float64, at least TINY, and TINY for NaN.
        r = torch.fmax(importance.index_select(0, self.gather), self.tiny).view(-1, self.layers)
        left = self.full + kept / self.total * self.layers
        level = left.div(r.sort(1).values.cumsum(1)).amax(1, keepdim=True)
        shares = (r * level).clamp_(max=1) * self.size
        return round_to_total(shares.view(-1).index_select(0, self.back), kept, self.places)


def fit(counts: Tensor, capacity: Tensor, kept: int, places: Tensor) -> Tensor:
    """`counts`, which sum to `kept`, none above its capacity; what doesn't fit is spread over others' room.

    All (layers,) float64; places: 0, 1, … layers - 1.
    """
    fitted = torch.minimum(counts, capacity)
    room = capacity - fitted
    # With no room at all nothing is left over either.
    shares = fitted.addcdiv(room * (kept - fitted.sum()), room.sum().clamp_(min=1))
    return round_to_total(shares, kept, places)


def global_counts(method: Any, layers: Sequence[MaskedLayer], kept: int) -> list[int] | Tensor:
    """What one global top-k over all matrices leaves in each (ablation G, soft movement, L0); of stacks as a vector.

    Ties go to the lower layer. Raises ScoreError for a NaN, unless layers are stacked.
    """
    stacks = stacks_of(layers)
    scores = [scores_of(method, piece) for piece in pieces(layers)]
    if stacks is None:
        return allocation.global_counts(scores, kept)
    if kept == 0:
        return torch.zeros(len(layers), dtype=torch.float64, device=stacks.device)
    threshold = torch.cat([rows.reshape(-1) for rows in scores]).topk(kept, sorted=False).values.amin()
    above = stacks.in_layers_order([(rows > threshold).sum(1) for rows in scores])
    equal = stacks.in_layers_order([(rows == threshold).sum(1) for rows in scores])
    before = equal.cumsum(0) - equal
    return (above + (kept - above.sum() - before).clamp_(min=0).minimum(equal)).double()
