"""A comparison for the terminal: one table a subject (task, data, model, head, metric)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from smpcli.results.compare import Comparison, Row, subject

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_ROOMY = 90  # columns from which two decimals and wider gaps fit


def render(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    """The tables, then the folders that were left out. `width` is the terminal's, in columns."""
    from rich.text import Text

    for _, group in groupby(comparison.rows, key=subject):
        rows = list(group)
        yield _table(rows, _title(rows[0], comparison.rows), roomy=width >= _ROOMY)
        yield Text()
    if comparison.problems:
        yield Text(f"Left out ({len(comparison.problems)}):", style="bold yellow")
        for path, reason in comparison.problems:
            yield Text(f"  {plain(str(path))}: {plain(reason)}", overflow="fold")


def _table(rows: list[Row], title: str, roomy: bool) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    best = _best(rows)
    decimals = 2 if roomy else 1
    means = [f"{row.mean * 100:.{decimals}f}" for row in rows]
    widest = max(map(len, means))
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        caption="* best at its sparsity" if best else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if roomy else 0, 0, 0),
    )
    table.add_column("method", overflow="fold")
    metric = Text(f"{plain(rows[0].metric)} %")
    for header in ("sparsity", "remaining", metric, "seeds", "vs\ndense", "trained", "bytes", "time"):
        # The metric from the left, and padded here, so that means stand below each other with a spread or without.
        table.add_column(header, justify="left" if header is metric else "right", no_wrap=True)
    for row, mean in zip(rows, means, strict=True):
        mark = "*" if row in best else " " if best else ""
        spread = "" if row.std is None else f" ± {row.std * 100:.{decimals}f}"
        value = f"{mark}{mean:>{widest}}{spread}"
        difference = "" if row.difference is None else f"{row.difference * 100:+.{decimals}f}"
        table.add_row(
            _method(row),
            _percent(row.sparsity),
            _percent(row.remaining),
            Text(value, style="bold" if row in best else ""),
            str(row.n),
            "" if row.method == "dense" else difference,
            human_count(row.trained),
            human_bytes(row.task_bytes),
            human_time(row.seconds),
        )
    return table


def _title(row: Row, rows: list[Row]) -> str:
    """Task, model and head, and the digests where names alone don't tell two subjects apart."""
    title = f"{row.task} on {row.model}, {row.head} head"
    if len({other.data_digest for other in rows if other.task == row.task}) > 1:
        title += f", data {row.data_digest[:8]}"
    if len({other.model_digest for other in rows if other.model == row.model}) > 1:
        title += f", weights {row.model_digest[:8]}"
    return plain(title)


def _method(row: Row) -> Text:
    from rich.text import Text

    text = Text(plain(row.method))
    return text.append(f"\n{plain(row.settings)}", style="dim") if row.settings else text


def _best(rows: list[Row]) -> list[Row]:
    """The best of each sparsity that has more than one row to choose from; all of them where they tie."""
    best = []
    for sparsity in {row.sparsity for row in rows}:
        rivals = [row for row in rows if row.sparsity == sparsity]
        if len(rivals) > 1:
            top = max(row.mean for row in rivals)
            best += [row for row in rivals if row.mean == top]
    return best


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.4g} %"


def human_count(number: int) -> str:
    return _scaled(number, ("", " k", " M", " G"))


def human_bytes(number: int) -> str:
    return _scaled(number, (" B", " kB", " MB", " GB"))


def _scaled(number: float, units: tuple[str, ...]) -> str:
    """Two or three digits and a unit of powers of 1000: 1.3 MB, 42 MB, 999 B."""
    unit = 0
    # 999.5 would print as 1000.
    while number >= 999.5 and unit < len(units) - 1:
        number /= 1000
        unit += 1
    digits = 1 if unit and number < 9.95 else 0
    return f"{number:.{digits}f}{units[unit]}"


def human_time(seconds: float) -> str:
    """Minutes and seconds: 9:05, 125:00."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def plain(text: str) -> str:
    """Names come from files: whatever could steer a terminal is shown as �."""
    return "".join(char if char.isprintable() else "�" for char in text)
