"""The picture of a model card: how much of each matrix remains."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from smpcli.files import replacing


def plot_density(densities: Mapping[str, Sequence[float]], path: Path) -> None:
    """A PNG with one line a kind of matrix: the fraction that remains (0 to 1) in each layer, from layer 0 on."""
    # It would talk of its font cache.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # Not pyplot, which would keep the figure and look for a screen.
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for (kind, values), marker in zip(densities.items(), "os^vD<>ph*" * len(densities), strict=False):
        axes.plot(range(len(values)), [100 * value for value in values], marker=marker, label=kind)
    axes.set_xlabel("layer")
    axes.set_ylabel("remaining weights (%)")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    with replacing(path) as temporary:
        # Without the program's version, the same densities make the same bytes.
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
