"""What is lost where texts are cut to a task's length: how many of a set's texts, and how many of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Cut:
    """Of the `examples` of a set, `cut` are longer than `length` tokens; they lose `lost` of all `tokens`.

    unit: what an example is: texts, pairs of texts, or questions (a span task's contexts are read in windows).
    of: the size of the set, where `examples` are only a sample of it.
    """

    unit: str
    length: int
    examples: int
    cut: int
    tokens: int
    lost: int
    of: int | None = None

    @classmethod
    def count(cls, unit: str, length: int, kept: Sequence[int] | np.ndarray, lost: Sequence[int] | np.ndarray) -> Cut:
        """From how many tokens of each example are kept, and how many aren't."""
        dropped = np.asarray(lost, dtype=np.int64)
        total = int(dropped.sum())
        tokens = total + int(np.asarray(kept, dtype=np.int64).sum())
        return cls(unit, length, len(dropped), int((dropped > 0).sum()), tokens, total)

    def to_json(self) -> dict[str, Any]:
        """Its fields; `of` of a sample alone."""
        return {name: value for name, value in asdict(self).items() if name != "of" or value is not None}


def describe(sets: Mapping[str, Cut]) -> str | None:
    """One line for people on all sets, by name; None where nothing is cut."""
    if not any(cut.cut for cut in sets.values()):
        return None
    parts: list[str] = []
    for name, cut in sets.items():
        share = cut.lost / cut.tokens if cut.tokens else 0.0
        shown = "under 0.1%" if 0 < share < 0.001 else f"{share:.1%}"
        counts = f"{name}: {cut.cut:,} of {cut.examples:,}"
        sample = f" (a sample of {cut.of:,})" if cut.of is not None else ""
        if not parts:  # the first says what holds for all
            parts.append(f"{counts} {cut.unit}{sample} are cut to {cut.length} tokens ({shown} of tokens)")
        else:
            parts.append(f"{counts}{sample} ({shown})")
    return "; ".join(parts)
