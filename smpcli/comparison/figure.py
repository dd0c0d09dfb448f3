"""The figure of a comparison: metric against remaining weights, a line a method (SMP paper, figure 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.comparison.beside import Beside
from smpcli.comparison.groups import Compared, Row
from smpcli.comparison.terminal import sections
from smpcli.errors import UserError
from smpcli.figures import check_suffix, figure
from smpcli.text import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours without the yellow, ordered so that neighbours differ in brightness too.
_COLOURS = ("#0072b2", "#d55e00", "#000000", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
# None is plainly dashed: that is dense.
STYLES = ("-", (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (8, 1.5)), (0, (4, 1, 1, 1, 1, 1)))
#: Of what lies level beside the runs, one each: what is drawn and what isn't, in line widths.
LEVEL = ((1, 3), (3, 1, 1, 1), (7, 2), (3, 3), (7, 1, 2, 1), (1, 1, 4, 1), (9, 4))
# From this ratio of the largest to the smallest share that remains on, a linear axis crowds the small ones together.
LOG_FROM = 4


@dataclass
class Line:
    """A method's points over sparsities. xs: share that remains, ys: mean metric, spread: standard deviation or 0.

    beside: no run's; level: drawn from end to end, as dense is.
    """

    name: str
    beside: bool = False
    level: bool = False
    xs: list[float] = field(default_factory=list)
    ys: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)

    def add(self, x: float, y: float, spread: float | None) -> None:
        self.xs.append(x)
        self.ys.append(y)
        self.spread.append(spread or 0.0)


def lines_of(rows: list[Row], others: Sequence[Beside] | None = None) -> list[Line]:
    """The lines of one subject, dense among them, each from few weights to many; those that keep most rows first."""
    found: dict[tuple[str, str, bool], Line] = {}
    for row in rows:
        name = plain(f"{row.method} ({row.variant})" if row.variant else row.method)
        line = found.setdefault((row.method, row.variant, False), Line(name, level=row.method == "dense"))
        line.add(row.remaining, row.mean, row.std)
    for other in others or []:
        name = plain(f"{other.name}, {other.origin} ({other.about})")
        level = other.sparsity is None or other.method == "dense"
        line = found.setdefault((other.method, name, True), Line(name, beside=True, level=level))
        line.add(1.0 if other.remaining is None else other.remaining, other.value, None)
    for line in found.values():
        order = sorted(range(len(line.xs)), key=line.xs.__getitem__)
        line.xs, line.ys, line.spread = ([part[i] for i in order] for part in (line.xs, line.ys, line.spread))
    return list(found.values())


def draw(comparison: Compared, path: Path) -> None:
    """Draw a panel for each task, data, model and metric into a png, svg or pdf file.

    Raises `UserError` for another suffix, and where there is nothing to draw.
    """
    check_suffix(path)
    tables = list(sections(comparison))
    if not tables:
        raise UserError("no finished runs to plot", "finish one, or widen the filters")
    columns = min(len(tables), 3)
    with figure(path, (4.6 * columns + 0.4, 3.6 * -(-len(tables) // columns) + 0.9)) as made:
        panels = made.subplots(-(-len(tables) // columns), columns, squeeze=False)
        looks: dict[str, dict[str, Any]] = {}
        dashes: dict[str, Any] = {}
        for axes, (title, rows, others) in zip(panels.flat, tables, strict=False):
            _panel(axes, title, rows, others, looks, dashes)
        for axes in list(panels.flat)[len(tables) :]:
            axes.set_axis_off()
        shown = {label: handle for axes in panels.flat for handle, label in zip(*_legend(axes), strict=True)}
        made.legend(
            shown.values(),
            shown.keys(),
            loc="outside lower center",
            # A column takes its longest name and some ten characters for the line.
            ncols=max(1, min(len(shown), 70 * columns // (max(map(len, shown)) + 10))),
            frameon=False,
            handlelength=3.2,
        )


def _panel(
    axes: Axes,
    title: str,
    rows: list[Row],
    others: Sequence[Beside],
    looks: dict[str, dict[str, Any]],
    dashes: dict[str, Any],
) -> None:
    """looks, dashes: of every line so far by its name, so that it looks alike in all panels."""
    from matplotlib.ticker import FixedLocator, NullLocator

    lines = lines_of(rows, others)
    pruned, level = ([line for line in lines if line.level is side] for side in (False, True))
    shares = sorted({x for line in pruned for x in line.xs}) or [1.0]
    log = shares[-1] / shares[0] >= LOG_FROM
    reach = (shares[0] / 1.25, shares[-1] * 1.25) if log else (shares[0] - 0.05, shares[-1] + 0.05)
    if log:
        axes.set_xscale("log")
    for line in level:
        mean, spread = line.ys[0] * 100, line.spread[0] * 100
        grey = "0.55" if line.beside else "0.25"
        dash = dashes.setdefault(line.name, (0, LEVEL[len(dashes) % len(LEVEL)])) if line.beside else "--"
        axes.axhline(mean, color=grey, linestyle=dash, linewidth=1.2, zorder=1, label=line.name)
        if spread:
            axes.axhspan(mean - spread, mean + spread, color="0.9", zorder=0, linewidth=0)
        axes.annotate(
            f"{mean:.1f}", (1, mean), xycoords=("axes fraction", "data"), xytext=(2, -3),
            textcoords="offset points", fontsize=7.5, color=grey,
        )  # fmt: skip
    for place, line in enumerate(pruned):
        look = looks.setdefault(line.name, look_of(len(looks), line.beside))
        # A little beside each other, so that spreads of one share don't hide one another.
        shift = (place - (len(pruned) - 1) / 2) * 0.016
        xs = [x * (1 + shift * 2) if log else x + shift * (reach[1] - reach[0]) for x in line.xs]
        axes.errorbar(
            xs, [y * 100 for y in line.ys], yerr=[s * 100 for s in line.spread] if any(line.spread) else None,
            label=line.name, capsize=2.5, elinewidth=0.9, linewidth=1.4, markersize=5.5, zorder=3, **look,
        )  # fmt: skip
    axes.set_xlim(*reach)
    axes.xaxis.set_major_locator(FixedLocator(_spaced(shares, log)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.3g} %")
    axes.grid(axis="y", color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left")
    axes.set_xlabel("remaining weights" + (" (log scale)" if log else ""))
    axes.set_ylabel(f"{plain(rows[0].metric)} %")


def look_of(place: int, beside: bool) -> dict[str, Any]:
    """Colour, marker and line style of a line, all different, so that a grey print is as clear. beside: hollow."""
    colour = _COLOURS[place % len(_COLOURS)]
    return {
        "color": "0.45" if beside else colour,
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": ":" if beside else STYLES[place % len(STYLES)],
        "markerfacecolor": "white" if beside else colour,
    }


def _spaced(shares: list[float], log: bool) -> list[float]:
    """The shares that can be written below the axis without running into each other."""
    import math

    if len(shares) < 2:
        return shares
    place = math.log if log else float
    width = place(shares[-1]) - place(shares[0])
    kept = shares[:1]
    for share in shares[1:]:
        if place(share) - place(kept[-1]) >= width / 8:
            kept.append(share)
    return kept


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    return axes.get_legend_handles_labels()
