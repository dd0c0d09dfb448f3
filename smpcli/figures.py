"""Figures in files: whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError
from smpcli.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


def check_suffix(path: Path, flag: str = "--plot") -> None:
    """Raise `UserError` where a file's name doesn't end in what can be drawn."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{flag} takes a file that ends in {', '.join(SUFFIXES)}, not '{path.name}'")


@contextmanager
def figure(path: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of `size` inches that is written to `path`, whole or not at all, always the same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kind = path.suffix.lower().removeprefix(".")
    look: Any = {
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "smp",
        "pdf.fonttype": 42,
        # A $ in a name is a dollar.
        "text.parse_math": False,
    }
    with matplotlib.rc_context(look):
        made = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(made)
        yield made
        undated: dict[str, None] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with replacing(path, "--plot") as temporary:
            made.savefig(temporary, format=kind, dpi=200, metadata=undated)
