"""The page's two charts as what Plotly takes: traces and a layout, plain lists and dictionaries.

Plotly reads markup in every text, links among it. What comes from runs goes through `_text`, after which it is text.
"""

from __future__ import annotations

import html
from typing import Any

from smpcli.comparison.figure import LEVEL, LOG_FROM, STYLES, Line, look_of
from smpcli.inspection.looks import Grid

_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
    "<": "triangle-left", ">": "triangle-right", "p": "pentagon", "h": "hexagon", "*": "star",
}  # fmt: skip
# As matplotlib's styles of the same place.
_DASHES = dict(zip(STYLES, ("solid", "dot", "dashdot", "longdash", "longdashdot"), strict=True)) | {":": "dot"}
# Steps between marks of one share, so that they don't hide one another: a factor, as the axis may be logarithmic.
_ASIDE = 0.03
_FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#1b1b1b"}


def plot(lines: list[Line], metric: str) -> dict[str, Any]:
    """Metric against remaining weights: a trace a method with bars of its spread; what isn't pruned is level."""
    pruned = [line for line in lines if not line.level]
    beside = [line for line in lines if line.level and line.beside]
    shares = sorted({x for line in pruned for x in line.xs}) or [1.0]
    reach = [shares[0] / 1.15, *shares, shares[-1] * 1.15]
    traces = []
    for place, line in enumerate(lines):
        if line.level:
            together = {"legendgroup": str(place)}
            lengths = LEVEL[beside.index(line) % len(LEVEL)] if line.beside else ()
            dash = ",".join(f"{3 * length}px" for length in lengths) or "dash"
            traces += [_level(line, metric, reach, dash) | together, _band(line, reach) | together]
        else:
            traces.append(_pruned(line, metric, pruned.index(line), len(pruned)))
    xaxis = {
        "title": {"text": "remaining weights"},
        "type": "log" if shares[-1] / shares[0] >= LOG_FROM else "linear",
        "tickvals": shares,
        "ticktext": [f"{share * 100:.3g} %" for share in shares],
    }
    yaxis = {"title": {"text": f"{_text(metric)} %"}, "gridcolor": "#eee"}
    return {"data": traces, "layout": _layout(460, xaxis | {"showgrid": False}, yaxis) | {"hovermode": "closest"}}


def heat(grid: Grid, kinds: list[str], counts: list[list[tuple[int, int] | None]]) -> dict[str, Any]:
    """Density by layer and matrix type, and of all. counts: kept and all weights of each cell."""
    wide, high = len(grid.kinds), len(grid.layers)
    values = [[*row, share] for row, share in zip(grid.values, grid.by_layer, strict=True)]
    values.append([*grid.by_kind, grid.whole])
    said = [
        [
            f"layer {layer}, {_text(kind)}<br>{cell[0]:,} of {cell[1]:,} weights ({cell[0] / cell[1] * 100:.3g} %)"
            if cell
            else ""
            for kind, cell in zip(grid.kinds, row, strict=True)
        ]
        + [f"layer {layer}"]
        for layer, row in zip(grid.layers, counts, strict=True)
    ]
    said.append([*map(_text, grid.kinds), "all matrices"])
    trace = {
        "type": "heatmap",
        "z": [[None if value is None else value * 100 for value in row] for row in values],
        "text": [["" if value is None else f"{value * 100:.1f}" for value in row] for row in values],
        "texttemplate": "%{text}",
        "hovertext": said,
        "hoverinfo": "text",
        "colorscale": [[0, "#ffffff"], [1, "#084594"]],
        "zmin": 0,
        "zmax": max(value for row in values for value in row if value is not None) * 100 or 1,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": "%"}},
    }
    # Places and not names, which two kinds may share.
    xaxis = {"tickvals": list(range(wide + 1)), "ticktext": [*map(_text, kinds), "all"], "side": "top"}
    yaxis = {"tickvals": list(range(high + 1)), "ticktext": [*map(str, grid.layers), "all"], "autorange": "reversed"}
    return {"data": [trace], "layout": _layout(120 + 32 * (high + 1), xaxis, yaxis | {"title": {"text": "layer"}})}


def _layout(height: int, xaxis: dict[str, Any], yaxis: dict[str, Any]) -> dict[str, Any]:
    common = {"zeroline": False, "automargin": True}
    return {
        "height": height,
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "font": _FONT,
        "plot_bgcolor": "#fff",
        "xaxis": common | xaxis,
        "yaxis": common | yaxis,
    }


def _level(line: Line, metric: str, reach: list[float], dash: str) -> dict[str, Any]:
    return _trace(line, reach, line.ys[:1] * len(reach), [_said(line, metric, 0)] * len(reach)) | {
        "mode": "lines",
        "line": {"color": "#8c8c8c" if line.beside else "#404040", "dash": dash, "width": 1.5},
    }


def _band(line: Line, reach: list[float]) -> dict[str, Any]:
    """Dense's own spread over seeds: it goes with its line, and says nothing."""
    low, high = ((line.ys[0] + sign * line.spread[0]) * 100 for sign in (-1, 1))
    ends = [reach[0], reach[-1]]
    about = {
        "mode": "none",
        "fill": "toself",
        "fillcolor": "rgba(0,0,0,0.08)",
        "hoverinfo": "skip",
        "showlegend": False,
    }
    return {"type": "scatter", "x": [*ends, *ends[::-1]], "y": [low, low, high, high], **about}


def _pruned(line: Line, metric: str, place: int, of: int) -> dict[str, Any]:
    given = look_of(place, line.beside)
    colour = "#737373" if line.beside else given["color"]
    aside = 1 + (place - (of - 1) / 2) * _ASIDE
    said = [
        f"{_said(line, metric, index)}<br>{share * 100:.3g} % of the weights remain"
        for index, share in enumerate(line.xs)
    ]
    return _trace(line, [share * aside for share in line.xs], line.ys, said) | {
        "mode": "lines+markers",
        "line": {"color": colour, "dash": _DASHES[given["linestyle"]], "width": 2},
        "marker": {"symbol": _SYMBOLS[given["marker"]] + ("-open" if line.beside else ""), "size": 10},
        "error_y": {"array": [spread * 100 for spread in line.spread], "visible": any(line.spread), "thickness": 1.2},
    }


def _trace(line: Line, xs: list[float], ys: list[float], said: list[str]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": _text(line.name),
        "x": xs,
        "y": [y * 100 for y in ys],
        "hovertext": said,
        "hoverinfo": "text",
        "showlegend": True,
    }


def _said(line: Line, metric: str, index: int) -> str:
    spread = f" ± {line.spread[index] * 100:.2f}" if line.spread[index] else ""
    return f"{_text(line.name)}<br>{_text(metric)} {line.ys[index] * 100:.2f}{spread} %"


def _text(text: str) -> str:
    """Text that Plotly shows as it stands: it takes tags for markup, and turns entities back."""
    return html.escape(text, quote=False)
