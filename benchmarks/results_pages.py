"""Make the tables of docs/results.md and its notes from the files beside the notes that `smp compare --csv` wrote.

    smp compare results/methods --csv docs/results/all-methods.csv --quiet
    python benchmarks/results_pages.py

A table stands between two comments. The first names files and columns of theirs: those of `rows` lead each line, each
value of `columns` is a column, and `cells` says what stands in it: mean (the default), values (of the seeds) or both.

    <!-- table: all-methods.csv rows=sparsity columns=method -->
    <!-- end of table -->
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS = DOCS / "results"
TABLE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)
Row = dict[str, str]


def pages() -> list[Path]:
    """The pages that may have such tables."""
    return [DOCS / "results.md", *sorted(RESULTS.glob("*.md"))]


def remade(page: str) -> str:
    """A page's text with its tables as the CSV files have them."""
    return TABLE.sub(lambda found: f"{found[1]}\n{table(found[2])}\n\n{found[3]}", page)


def table(asked: str) -> str:
    """The Markdown table that a comment asks for. Raises ValueError where two rows would share a cell."""
    words = asked.split()
    given = dict(word.split("=") for word in words if "=" in word)
    rows = [row for word in words if "=" not in word for row in read(RESULTS / word)]
    lead, across = given["rows"].split(","), given["columns"]
    columns = list(dict.fromkeys(row[across] for row in rows))
    if across == "sparsity":
        columns.sort(key=float)
    most = max(int(row["n"] or 1) for row in rows)
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        line = lines.setdefault(tuple(shown(row, name) for name in lead), {})
        if row[across] in line:
            raise ValueError(f"{asked}: two rows for {row['method']} at {row['sparsity']}")
        text = cell(row, given.get("cells", "mean"), most)
        line[row[across]] = f"**{text}**" if leads(row, rows) else text
    heads = [*lead, *(shown({across: column}, across) for column in columns)]
    made = [heads, ["---"] * len(heads)]
    made += [[*names, *(line.get(column, "") for column in columns)] for names, line in lines.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in made)


def read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def leads(row: Row, rows: list[Row]) -> bool:
    """Whether it is the best of its sparsity, and not as good as all the others."""
    about = ("task", "metric", "sparsity", "steps")
    return row["best"] == "True" and any(
        other["best"] != "True" for other in rows if all(other[name] == row[name] for name in about)
    )


def shown(row: Row, name: str) -> str:
    """A value that names a line or a column, as people read it."""
    value = row[name]
    if name == "sparsity" and value:
        return f"{float(value) * 100:g} %"
    if name == "steps":
        return f"{int(value):,}"
    if name == "method" and row.get("kd") == "True":
        return f"{value} + KD"
    return f"`{value}`" if name == "settings" and value else value or "—"


def cell(row: Row, what: str, most: int) -> str:
    """Per cent: mean ± std, with n where other rows have more seeds; each seed's value; or both."""
    mean = f"{float(row['mean']) * 100:.2f}"
    if row["std"]:
        mean += f" ± {float(row['std']) * 100:.2f}"
    if row["n"] and int(row["n"]) < most:
        mean += f" (n = {row['n']})"
    values = [f"{float(value) * 100:.2f}" for value in row["values"].split()]
    if what == "values":
        return ", ".join(values)
    return f"{mean}: {', '.join(values)}" if what == "both" and len(values) > 1 else mean


def main() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (made := remade(text)) != text:
            page.write_text(made, encoding="utf-8")
            print(f"{page.relative_to(DOCS)}: tables made again")


if __name__ == "__main__":
    main()
