"""A comparison as Markdown, and as LaTeX (booktabs) for a paper."""

from __future__ import annotations

from smpcli.comparison.beside import Beside, percent
from smpcli.comparison.groups import Compared, Row
from smpcli.comparison.terminal import method_name, notes_of, one_class_mark, sections
from smpcli.text import human_bytes, human_count, human_time, plain

_HEADERS = (
    "method",
    "sparsity",
    "remaining",
    "{metric} %",
    "n",
    "vs dense",
    "95 % interval",
    "trained",
    "bytes",
    "time",
)


def to_markdown(comparison: Compared) -> str:
    """A pipe table for each task, data, model and metric; the best of each sparsity in bold."""
    parts = []
    for title, rows, others in sections(comparison):
        header = [_markdown(name.format(metric=rows[0].metric)) for name in _HEADERS]
        lines = [header, ["---"] + ["---:"] * (len(header) - 1)]
        for row in rows:
            cells = [_markdown(cell) for cell in _cells(row)]
            if row.best:
                cells[3] = f"**{cells[3]}**"
            lines.append(cells)
        lines += [[_markdown(cell) for cell in _cells_beside(row)] for row in others]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        parts.append("\n\n".join([f"**{_markdown(title)}**", table, *map(_markdown, notes_of(rows, others))]))
    return "\n\n".join(parts)


def to_latex(comparison: Compared) -> str:
    r"""A `tabular` for each task, data, model and metric; needs \usepackage{booktabs}."""
    parts = []
    for title, rows, others in sections(comparison):
        header = [_latex(name.format(metric=rows[0].metric)) for name in _HEADERS]
        lines = [f"% {title}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
        lines += [f"{' & '.join(header)} \\\\", r"\midrule"]
        for row in rows:
            cells = [_latex(cell) for cell in _cells(row)]
            if row.best:
                cells[3] = rf"\textbf{{{cells[3]}}}"
            lines.append(f"{' & '.join(cells)} \\\\")
        if others:
            lines.append(r"\midrule")
            lines += [f"{' & '.join(_latex(cell) for cell in _cells_beside(row))} \\\\" for row in others]
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [f"% {plain(note)}" for note in notes_of(rows, others)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cells(row: Row) -> list[str]:
    def signed(value: float, digits: int) -> str:
        return f"{value * 100:+.{digits}f}".replace("-", "−")

    dense = row.method == "dense"
    spread = "" if row.std is None else f" ± {row.std * 100:.2f}"
    low, high = row.difference_low, row.difference_high
    return [
        method_name(row) + (f" ({row.settings})" if row.settings else ""),
        percent(row.sparsity),
        percent(row.remaining),
        f"{row.mean * 100:.2f}".replace("-", "−") + spread + one_class_mark(row),
        str(row.n),
        "" if dense or row.difference is None else signed(row.difference, 2),
        "" if low is None or high is None else f"{signed(low, 1)} to {signed(high, 1)}",
        human_count(row.trained),
        human_bytes(row.task_bytes),
        human_time(row.seconds),
    ]


def _cells_beside(row: Beside) -> list[str]:
    shown = [f"{row.name} {row.mark} ({row.about})", percent(row.sparsity), percent(row.remaining), row.per_cent]
    return [*shown, *[""] * (len(_HEADERS) - len(shown))]


def _markdown(text: str) -> str:
    """Names come from files: none of them may end a cell, or be a link or HTML."""
    for char in "\\`*_[]<>|":
        text = text.replace(char, f"\\{char}" if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char])
    return plain(text)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "−": "$-$", "[": "{[}", "*": "{*}", "§": r"\S{}", "†": r"$\dagger$", "‡": r"$\ddagger$",
    "—": "---",
}  # fmt: skip


def _latex(text: str) -> str:
    # [ and * are braced, as either would be an argument of the line break before it.
    return "".join(_LATEX.get(char, char) for char in plain(text))
