"""A comparison as Markdown, and as LaTeX (booktabs) for a paper."""

from __future__ import annotations

from smpcli.comparison.groups import Compared, Row
from smpcli.comparison.published import PublishedRow
from smpcli.comparison.terminal import method_name, notes_of, one_class_mark, published_value, sections
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
_PUBLISHED = "published, not run here"


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
        lines += [[_markdown(cell) for cell in _published_cells(row)] for row in others]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        notes = notes_of(rows)
        notes += [f"† {_PUBLISHED}: {source}" for source in sorted({row.source for row in others})]
        parts.append("\n\n".join([f"**{_markdown(title)}**", table, *map(_markdown, notes)]))
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
            lines += [f"{' & '.join(_latex(cell) for cell in _published_cells(row))} \\\\" for row in others]
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [f"% {note}" for note in notes_of(rows)]
        lines += [f"% † {_PUBLISHED}: {plain(source)}" for source in sorted({row.source for row in others})]
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
        f"{row.sparsity * 100:.4g} %",
        f"{row.remaining * 100:.4g} %",
        f"{row.mean * 100:.2f}".replace("-", "−") + spread + one_class_mark(row),
        str(row.n),
        "" if dense or row.difference is None else signed(row.difference, 2),
        "" if low is None or high is None else f"{signed(low, 1)} to {signed(high, 1)}",
        human_count(row.trained),
        human_bytes(row.task_bytes),
        human_time(row.seconds),
    ]


def _published_cells(row: PublishedRow) -> list[str]:
    about = f"{row.model}, KD" if row.kd else row.model
    shown = [f"{row.name} † ({about})", f"{row.sparsity * 100:.4g} %", f"{(1 - row.sparsity) * 100:.4g} %"]
    return [*shown, published_value(row), *[""] * (len(_HEADERS) - 4)]


def _markdown(text: str) -> str:
    """Names come from files: none of them may end a cell, or be a link or HTML."""
    for char in "\\`*_[]<>|":
        text = text.replace(char, f"\\{char}" if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char])
    return plain(text)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "−": "$-$", "[": "{[}", "*": "{*}", "†": r"$\dagger$", "‡": r"$\ddagger$",
    "—": "---",
}  # fmt: skip


def _latex(text: str) -> str:
    # [ and * are braced, as either would be an argument of the line break before it.
    return "".join(_LATEX.get(char, char) for char in plain(text))
