"""An inspection for the terminal: heat maps, and tables of what is empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from smpcli.inspection.looks import Grid, Look, Looks
from smpcli.inspection.matrices import ChannelCounts, short
from smpcli.text import plain

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_BARS = "▁▂▃▄▅▆▇█"


def render(inspection: Looks) -> Iterator[RenderableType]:
    from rich.text import Text

    for look in inspection.looks:
        yield from _look(look)
    overlap = inspection.overlap
    if overlap is not None:
        yield Text("overlap of the two masks", style="bold")
        times = overlap.jaccard.whole / overlap.chance.whole if overlap.chance.whole else 0.0
        yield Text(
            f"Jaccard {overlap.jaccard.whole:.4f}, by chance {overlap.chance.whole:.4f}: {times:.3g} times chance\n"
        )
        yield _heat_map("Jaccard %", overlap.jaccard)
        yield Text()
        yield _heat_map("times chance", _times(overlap.jaccard, overlap.chance), scale=1.0)
        yield Text()


def _look(look: Look) -> Iterator[RenderableType]:
    from rich.text import Text

    result = look.result
    yield Text(plain(str(look.path)), style="bold")
    yield Text(
        plain(
            f"{result.run.method} on {result.run.task}, {result.model.name}: {result.metric} "
            f"{result.value * 100:.2f} %, {result.weights.kept:,} of {result.weights.prunable:,} weights remain "
            f"({result.run.remaining:.2%})"
        )
        + "\n"
    )
    yield _heat_map("density %", look.density)
    yield Text()
    yield _empty(look)
    yield Text(_savings(look) + "\n")
    if look.moved:
        yield _moved(look)
        yield Text()


def _heat_map(title: str, grid: Grid, scale: float = 100.0) -> RenderableType:
    """A number and a bar for each matrix; bars and colours go from 0 to the largest."""
    table = _table(["", *(plain(short(kind)).replace(".", "\n") for kind in grid.kinds), "all"], title)
    known = [value for row in grid.values for value in row if value is not None]
    top = max(known, default=0.0)
    for layer, row, whole in zip(grid.layers, grid.values, grid.by_layer, strict=True):
        cells = [_cell(value, top, scale) for value in row]
        table.add_row(f"layer {layer}", *cells, _number(whole, scale))
    table.add_row("all", *(_number(value, scale) for value in grid.by_kind), _number(grid.whole, scale))
    return table


def _cell(value: float | None, top: float, scale: float) -> Text:
    from rich.text import Text

    if value is None:
        return Text("")
    share = value / top if top else 0.0
    bar = _BARS[min(len(_BARS) - 1, int(share * len(_BARS)))]
    # From white to a deep blue; dark cells have light letters.
    red, green, blue = (round(255 - share * (255 - end)) for end in (8, 69, 148))
    letters = "white" if share > 0.55 else "black"
    return Text(f"{_number(value, scale)} {bar}", style=f"{letters} on rgb({red},{green},{blue})")


def _number(value: float, scale: float) -> str:
    return f"{value * scale:.{1 if value * scale < 99.95 else 0}f}"


def _empty(look: Look) -> RenderableType:
    table = _table(["type", "empty rows", "empty columns", "area left"], "empty outputs (rows) and inputs (columns)")
    for kind in look.density.kinds:
        some = [matrix for matrix in look.matrices if matrix.kind == kind]
        table.add_row(
            plain(kind),
            _of(sum(matrix.empty_rows for matrix in some), sum(matrix.rows for matrix in some)),
            _of(sum(matrix.empty_columns for matrix in some), sum(matrix.columns for matrix in some)),
            f"{sum(matrix.filled_area for matrix in some) / sum(matrix.size for matrix in some):.1%}",
        )
    return table


def _savings(look: Look) -> str:
    found = look.compact
    heads, neurons = _channels("heads", found.heads), _channels("feed-forward neurons", found.neurons)
    return (
        f"{heads}; {neurons}\n"
        f"matrix area left without empty rows and columns: {found.filled_area / found.area:.1%} of {found.area:,}; "
        f"with what compact saves besides: {found.compact_area / found.area:.1%}"
    )


def _channels(name: str, channels: ChannelCounts | None) -> str:
    return f"empty {name} unknown" if channels is None else f"empty {name}: {_of(channels.gone, channels.total)}"


def _moved(look: Look) -> RenderableType:
    metric = look.result.metric
    table = _table(["step", "density %", f"{plain(metric)} %", "turnover %"], "how the mask moved")
    for row in look.moved:
        table.add_row(f"{row['step']:g}", *(f"{row[key] * 100:.2f}" for key in ("density", metric, "turnover")))
    return table


def _times(jaccard: Grid, chance: Grid) -> Grid:
    def divide(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else one / other if other else 0.0

    def each(ones: Sequence[float], others: Sequence[float]) -> list[float]:
        return [divide(one, other) or 0.0 for one, other in zip(ones, others, strict=True)]

    values = [
        [divide(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(jaccard.values, chance.values, strict=True)
    ]
    return Grid(
        jaccard.layers, jaccard.kinds, values, each(jaccard.by_layer, chance.by_layer),
        each(jaccard.by_kind, chance.by_kind), divide(jaccard.whole, chance.whole) or 0.0,
    )  # fmt: skip


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})" if whole else "none"


def _table(columns: Sequence[str], title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="italic"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
                  pad_edge=False)  # fmt: skip
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if place else "left")
    return table
