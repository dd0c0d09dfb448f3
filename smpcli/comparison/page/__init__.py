"""One self-contained page of a comparison: table, plot, heat map and settings, without any network.

Everything that comes from runs is in one JSON block, escaped so that no text of it can end the block, and the script
puts it on the page as text, never as HTML. Plot and heat map are Plotly's; its script comes from its Python package.
The page's own policy forbids every other script and every connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from smpcli.comparison.beside import Beside, percent
from smpcli.comparison.figure import lines_of
from smpcli.comparison.groups import Compared, Row
from smpcli.comparison.page import charts
from smpcli.comparison.terminal import method_name, notes_of, one_class_mark, sections
from smpcli.errors import UserError
from smpcli.files import replacing
from smpcli.runs.rundir import MASKS, RunDir, RunError
from smpcli.text import human_bytes, human_count, human_time

_HERE = Path(__file__).parent


def write_page(comparison: Compared, path: Path) -> None:
    """Write the page. Raises `UserError` for a comparison without runs and for a place that can't be written."""
    if not comparison.rows:
        raise UserError("no finished runs for a page", "finish one, or widen the filters")
    from plotly.offline import get_plotlyjs

    script = (_HERE / "page.js").read_text(encoding="utf-8")
    # A line's end that HTML would change, would change what the browser's digest is made of.
    library = get_plotlyjs().replace("\r\n", "\n")
    parts = {
        # blob: is the picture that Plotly's camera button makes.
        "@POLICY@": "default-src 'none'; form-action 'none'; base-uri 'none'; img-src data: blob:; "
        f"style-src 'unsafe-inline'; script-src '{_digest(library)}' '{_digest(script)}'",
        "@STYLE@": (_HERE / "page.css").read_text(encoding="utf-8"),
        "@DATA@": _harmless(contents(comparison)),
        "@PLOTLY@": library,
        "@SCRIPT@": script,
    }
    page = (_HERE / "page.html").read_text(encoding="utf-8")
    # From the left, so that what is put in is never looked through for a place itself.
    made, rest = [], page
    for name, text in parts.items():
        before, _, rest = rest.partition(name)
        made += [before, text]
    with replacing(path, "--html") as temporary:
        temporary.write_text("".join([*made, rest]), encoding="utf-8", errors="replace", newline="\n")


def contents(comparison: Compared) -> dict[str, Any]:
    """What the page shows, as plain lists and dictionaries."""
    return {
        "version": version("smp-prune"),
        "tables": [
            {
                "title": title,
                "metric": rows[0].metric,
                "notes": notes_of(rows, others),
                "rows": [*map(_row, rows), *map(_beside, others)],
                "plot": charts.plot(lines_of(rows, others), rows[0].metric),
            }
            for title, rows, others in sections(comparison)
        ],
        "runs": [_run(Path(path)) for row in comparison.rows for path in row.runs],
        "problems": [{"path": str(path), "reason": reason} for path, reason in comparison.problems],
    }


def _row(row: Row) -> dict[str, Any]:
    """Pairs of what is sorted by and what is shown."""
    dense = row.method == "dense"
    spread = "" if row.std is None else f" ± {row.std * 100:.2f}"
    low, high = row.difference_low, row.difference_high
    interval = None if low is None or high is None else f" [{low * 100:+.1f}, {high * 100:+.1f}]"
    return {
        "best": row.best,
        "beside": False,
        "cells": [
            [row.method, method_name(row)],
            [row.settings, row.settings],
            [row.sparsity, percent(row.sparsity)],
            [row.remaining, percent(row.remaining)],
            [row.mean, f"{row.mean * 100:.2f}{spread}{one_class_mark(row)}"],
            [row.n, str(row.n)],
            [None, ""]
            if dense or row.difference is None
            else [row.difference, f"{row.difference * 100:+.2f}{interval or ''}"],
            [row.trained, human_count(row.trained)],
            [row.task_bytes, human_bytes(row.task_bytes)],
            [row.seconds, human_time(row.seconds)],
        ],
    }


def _beside(row: Beside) -> dict[str, Any]:
    about = f"{row.origin}: {row.about}"
    return {
        "best": False,
        "beside": True,
        "cells": [
            [row.method, f"{row.mark} {row.name}"],
            [about, about],
            [row.sparsity, percent(row.sparsity)],
            [row.remaining, percent(row.remaining)],
            [row.value, row.per_cent],
            *[[None, ""]] * 5,
        ],
    }


def _run(path: Path) -> dict[str, Any]:
    """A run's settings and results by name, and its heat map of density (None where it has no mask)."""
    from smpcli.comparison.collect import read

    found = read(path, None)
    return {
        "path": str(path),
        "name": path.name,
        "settings": dict(sorted(found.every.items())),
        "results": {
            **{f"metrics.{name}": repr(value) for name, value in found.result.metrics.items()},
            "weights.kept": str(found.result.weights.kept),
            **{f"environment.{name}": str(value) for name, value in found.result.environment},
        },
        "density": _density(found.directory),
    }


def _density(run: RunDir) -> dict[str, Any] | None:
    if not run.has(MASKS):
        return None
    from smpcli.inspection.looks import density_grid, read_masks
    from smpcli.inspection.matrices import describe, short

    try:
        matrices = describe(read_masks(run))
    except RunError as error:
        return {"problem": error.reason}
    grid = density_grid(matrices)
    counts = {(matrix.layer, matrix.kind): (matrix.kept, matrix.size) for matrix in matrices}
    return charts.heat(
        grid,
        [short(kind) for kind in grid.kinds],
        [[counts.get((layer, kind)) for kind in grid.kinds] for layer in grid.layers],
    )


def _harmless(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _digest(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
