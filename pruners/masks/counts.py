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


def round_to_total(shares: Tensor, capacity: Tensor, total: int) -> Tensor:
    """Whole numbers near `shares`, none above its capacity, that sum to `total` (largest remainders first).

    shares: (n,) float64, which sum to `total` but for rounding; capacity: (n,) float64, no share is above its own.
    Returns (n,) int64.
    Ties go to the lower index. Where a share is NaN, some numbers within the capacities.
    """
    whole = shares.floor()
    order = (whole - shares).sort(stable=True).indices
    # Those next in line get one more: a full share has no remainder, so it comes last and gets none.
    extra = torch.arange(len(shares), device=shares.device) < total - whole.sum()
    return whole.index_add_(0, order, extra.to(whole.dtype)).clamp_(min=0).minimum(capacity).long()


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
        order = stacks.order.tolist()
        self.gather = torch.tensor([order[i] for i in place], device=device)
        self.back = torch.tensor([place.index(i) for i in range(len(kinds))], device=device)
        self.size = torch.tensor(self.sizes, dtype=torch.float64, device=device)[:, None]
        self.capacity = torch.tensor(sizes, dtype=torch.float64, device=device)

    def counts(self, importance: Tensor, kept: int) -> Tensor:
        """Kept weights of each layer, in the layers' order; `importance` in the order of the stacks' rows.

        Clamping densities at 1 is water-filling. With the m most important layers of a kind full, the others have
        density r * (left - m) / sum(r of the others), in layers' worth of weights; the level (left - m) / sum that
        clamping ends at is the highest over m, as it rises while the next layer is above 1 and falls from there.
        """
        r = importance.index_select(0, self.gather).double().view(-1, self.layers).clamp_(min=TINY)
        density = kept / self.total
        left = [[density * self.layers - full for full in reversed(range(self.layers))] for _ in self.sizes[:1]]
        others = r.sort(1).values.cumsum(1)
        level = torch.tensor(left, dtype=torch.float64, device=r.device).div(others).amax(1, keepdim=True)
        shares = (r * level).clamp_(max=1) * self.size
        return round_to_total(shares.view(-1).index_select(0, self.back), self.capacity, kept)


def fit(counts: Tensor, capacity: Tensor, kept: int) -> Tensor:
    """`counts`, which sum to `kept`, none above its capacity; what doesn't fit is spread over others' room."""
    capacity = capacity.double()
    fitted = torch.minimum(counts.double(), capacity)
    room = capacity - fitted
    # With no room at all nothing is left over either.
    shares = fitted + (kept - fitted.sum()) * room / room.sum().clamp_(min=1)
    return round_to_total(shares, capacity, kept)


def global_counts(method: Any, layers: Sequence[MaskedLayer], kept: int) -> list[int] | Tensor:
    """What one global top-k over all matrices leaves in each (ablation G, soft movement, L0); of stacks as a vector.

    Ties go to the lower layer. Raises ScoreError for a NaN, unless layers are stacked.
    """
    stacks = stacks_of(layers)
    scores = [scores_of(method, piece) for piece in pieces(layers)]
    if stacks is None:
        return allocation.global_counts(scores, kept)
    if kept == 0:
        return torch.zeros(len(layers), dtype=torch.int64, device=stacks.device)
    threshold = torch.cat([rows.reshape(-1) for rows in scores]).topk(kept, sorted=False).values.amin()
    above = stacks.in_layers_order([(rows > threshold).sum(1) for rows in scores])
    equal = stacks.in_layers_order([(rows == threshold).sum(1) for rows in scores])
    before = equal.cumsum(0) - equal
    return above + (kept - above.sum() - before).clamp_(min=0).minimum(equal)
