"""The picture of an inspection: heat maps by layer and matrix type, and how the mask moved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smpcli.figures import check_suffix, figure
from smpcli.inspection.looks import Grid, Look, Looks
from smpcli.inspection.matrices import short
from smpcli.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(inspection: Looks, path: Path) -> None:
    """Density of each run; of two, their Jaccard overlap too; below, turnover where runs recorded it.

    Raises `UserError` for a suffix other than png, svg or pdf.
    """
    check_suffix(path)
    maps = [(_title(look), look.density) for look in inspection.looks]
    if inspection.overlap is not None:
        overlap = inspection.overlap
        maps.append((f"Jaccard overlap % (by chance {overlap.chance.whole * 100:.3g})", overlap.jaccard))
    moved = [look for look in inspection.looks if look.moved]
    grid = maps[0][1]
    height = 1.6 + 0.3 * len(grid.layers)
    width = 1.6 + 0.62 * len(grid.kinds)
    rows = 2 if moved else 1
    with figure(path, (width * len(maps), height + (2.2 if moved else 0))) as made:
        panels = made.subplots(rows, len(maps), squeeze=False, height_ratios=[height, 2.2] if moved else [height])
        # Densities share a scale, so that two runs can be compared by colour.
        top = max(_top(look.density) for look in inspection.looks)
        for axes, (title, shown) in zip(panels[0], maps, strict=True):
            _heat_map(
                axes, title, shown, top if shown in [look.density for look in inspection.looks] else _top(shown)
            )
        if moved:
            for axes, look in zip(panels[1], inspection.looks, strict=False):
                _turnover(axes, look)
            for axes in panels[1][len(inspection.looks) :]:
                axes.set_axis_off()


def _title(look: Look) -> str:
    run = look.result.run
    return plain(f"{run.method} on {run.task}, seed {run.seed}: density % ({run.remaining * 100:.3g} in all)")


def _top(grid: Grid) -> float:
    return max((value for row in grid.values for value in row if value is not None), default=0.0) or 1.0


def _heat_map(axes: Axes, title: str, grid: Grid, top: float) -> None:
    import numpy as np

    values = np.array([[np.nan if value is None else value for value in row] for row in grid.values]) * 100
    axes.imshow(values, cmap="Blues", vmin=0, vmax=top * 100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > 60 * top else "black"
            text = f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(len(grid.kinds)), [plain(short(kind)).replace(".", "\n") for kind in grid.kinds])
    axes.set_yticks(range(len(grid.layers)), [str(layer) for layer in grid.layers])
    axes.tick_params(length=0, labelsize=7.5)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("layer")
    axes.set_title(title, loc="left", fontsize=8.5)


def _turnover(axes: Axes, look: Look) -> None:
    steps = [row["step"] for row in look.moved]
    axes.plot(
        steps, [row["turnover"] * 100 for row in look.moved], marker="o", color="black", linewidth=1.2, clip_on=False
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("new since last\nevaluation %")
    axes.grid(axis="y", color="0.92", linewidth=0.7)
