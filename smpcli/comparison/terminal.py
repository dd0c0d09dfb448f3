"""A comparison for the terminal: one table a subject (task, data, model, head, metric)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from smpcli.comparison.beside import Beside, FloorRow, percent
from smpcli.comparison.groups import Compared, Row, subject
from smpcli.text import human_bytes, human_count, human_time, plain

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SELECTED = "‡ dev chose the model: the best of a run's evaluations at the final density"
_ROOMY = 100  # columns from which two decimals, wider gaps and whole intervals fit


def render(comparison: Compared, width: int) -> Iterator[RenderableType]:
    """The tables, then the folders that were left out. `width` is the terminal's, in columns."""
    from rich.text import Text

    for title, rows, others in sections(comparison):
        yield _table(rows, others, title, roomy=width >= _ROOMY)
        yield Text()
    if comparison.problems:
        yield Text(f"Left out ({len(comparison.problems)}):", style="bold yellow")
        for path, reason in comparison.problems:
            yield Text(f"  {plain(str(path))}: {plain(reason)}", overflow="fold")


def sections(comparison: Compared) -> Iterator[tuple[str, list[Row], list[Beside]]]:
    """The tables to make: title, runs, and the figures of the same task and metric that stand beside them."""
    for _, group in groupby(comparison.rows, key=subject):
        rows = list(group)
        about = {(row.task, row.metric) for row in rows if row.built_in}
        first = rows[0]
        floors = [row for row in comparison.floors if is_floor_of(row, first)]
        others = [*floors, *(row for row in comparison.published if (row.task, row.metric) in about)]
        yield _title(first, comparison.rows), rows, others


def is_floor_of(floor: FloorRow, row: Row) -> bool:
    """Whether it is about the same data and metric, and about the same model where one is in it."""
    same = (floor.task, floor.data_digest, floor.metric) == (row.task, row.data_digest, row.metric)
    return same and floor.model_digest in ("", row.model_digest)


def _table(rows: list[Row], others: list[Beside], title: str, roomy: bool) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    best = any(row.best for row in rows)
    decimals = 2 if roomy else 1
    means = [f"{row.mean * 100:.{decimals}f}" for row in rows]
    widest = max(map(len, means))
    differences = _differences(rows, roomy)
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        caption="\n".join(_captions(rows, others)) or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if roomy else 0, 0, 0),
    )
    table.add_column("method", overflow="fold")
    metric = Text(f"{plain(rows[0].metric)} %")
    counts = "seeds" if roomy else "n"
    for header in ("sparsity", "remaining", metric, counts, "vs\ndense", "trained", "bytes", "time"):
        # The metric from the left, and padded here, so that means stand below each other with a spread or without.
        table.add_column(header, justify="left" if header is metric else "right", no_wrap=True)
    for row, mean, difference in zip(rows, means, differences, strict=True):
        mark = "*" if row.best else " " if best else ""
        spread = "" if row.std is None else f" ± {row.std * 100:.{decimals}f}"
        value = f"{mark}{mean:>{widest}}{spread}{one_class_mark(row)}"
        table.add_row(
            _method(row),
            percent(row.sparsity),
            percent(row.remaining),
            Text(value, style="bold" if row.best else ""),
            str(row.n),
            difference,
            human_count(row.trained),
            human_bytes(row.task_bytes),
            human_time(row.seconds),
        )
    if others:
        table.add_section()
    for other in others:
        value = f"{other.per_cent:>{widest + best}}"
        table.add_row(
            Text(plain(f"{other.mark} {other.label}"), style="italic"),
            percent(other.sparsity),
            percent(other.remaining),
            Text(value, style="italic"),
        )
    return table


def one_class_mark(row: Row) -> str:
    """What stands behind the metric of a row that predicts one class only."""
    return " !" if row.one_class else ""


def notes_of(rows: list[Row], others: list[Beside]) -> list[str]:
    """What the marks ‡, ! and those of figures beside the runs mean, where a row has them."""
    notes = [SELECTED] if any(row.select == "best" for row in rows) else []
    if marked := [row for row in rows if row.one_class]:
        some = ", with one of its seeds or more" if any(len(row.one_class) < row.n for row in marked) else ""
        notes.append(f"! predicts one class only (or one number, one answer){some}")
    return notes + sorted({other.note for other in others})


def _differences(rows: list[Row], roomy: bool) -> list[str]:
    """To dense, with the interval's ends where there is room, else with half its width."""
    found = []
    for row in rows:
        if row.difference is None or row.method == "dense":
            found.append("")
        elif row.difference_low is None or row.difference_high is None:
            found.append(f"{row.difference * 100:+.{2 if roomy else 1}f}")
        elif roomy:
            ends = f"[{row.difference_low * 100:+.1f},{row.difference_high * 100:+.1f}]"
            found.append(f"{row.difference * 100:+.2f} {ends:>12}")
        else:
            half = (row.difference_high - row.difference_low) * 50
            found.append(f"{row.difference * 100:+.1f}±{half:.1f}")
    return found


def _captions(rows: list[Row], others: list[Beside]) -> list[str]:
    found = ["* best at its sparsity"] if any(row.best for row in rows) else []
    if any(row.difference_low is not None for row in rows):
        found.append("vs dense: with its 95 % interval, paired bootstrap over dev examples")
    return found + [plain(note) for note in notes_of(rows, others)]


def _title(row: Row, rows: list[Row]) -> str:
    """Task, model and head, and the digests where names alone don't tell two subjects apart."""
    title = f"{row.task} on {row.model}, {row.head} head"
    if len({other.data_digest for other in rows if other.task == row.task}) > 1:
        title += f", data {row.data_digest[:8]}"
    if len({other.model_digest for other in rows if other.model == row.model}) > 1:
        title += f", weights {row.model_digest[:8]}"
    return plain(title)


def method_name(row: Row) -> str:
    """The method, and what a reader must know beside its settings: with a teacher (+ KD); dev chose the step (‡)."""
    return f"{row.method}{' + KD' if row.kd else ''}{' ‡' if row.select == 'best' else ''}"


def _method(row: Row) -> Text:
    from rich.text import Text

    text = Text(plain(method_name(row)))
    return text.append(f"\n{plain(row.settings)}", style="dim") if row.settings else text
