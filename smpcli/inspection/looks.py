"""What an inspection shows, as data: grids of figures by block and type, a run's look, two masks' overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError
from smpcli.inspection.matrices import Compact, Matrix, kinds
from smpcli.runs.rundir import RunDir, RunError
from smpcli.runs.schema import Result

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """A figure for each block (row) and type (column), over each of both, and over all. None: no such matrix."""

    layers: list[int]
    kinds: list[str]
    values: list[list[float | None]]
    by_layer: list[float]
    by_kind: list[float]
    whole: float


@dataclass(frozen=True)
class Look:
    """One run's mask. moved: for each evaluation that knows, its step, density, metric and turnover."""

    path: Path
    result: Result
    matrices: list[Matrix]
    density: Grid
    compact: Compact
    moved: list[dict[str, float]]


@dataclass(frozen=True)
class Overlap:
    """Two masks of the same matrices. jaccard: |A and B| / |A or B|; chance: that of random masks as dense."""

    jaccard: Grid
    chance: Grid


@dataclass(frozen=True)
class Looks:
    """One look, or two with their overlap: what is drawn and printed."""

    looks: list[Look]
    overlap: Overlap | None

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries that `json` can write."""
        return {
            "runs": [
                {
                    "path": str(look.path),
                    "method": look.result.run.method,
                    "task": look.result.run.task,
                    "sparsity": look.result.run.sparsity,
                    "density": asdict(look.density),
                    "matrices": [asdict(matrix) for matrix in look.matrices],
                    "compact": asdict(look.compact),
                    "turnover": look.moved,
                }
                for look in self.looks
            ],
            "overlap": None if self.overlap is None else asdict(self.overlap),
        }


def read_masks(run: RunDir) -> dict[str, Tensor]:
    """The run's masks. Raises `RunError`, also where they don't hold what result.json counts."""
    try:
        masks = run.read_masks()
    except RunError:
        raise
    except UserError as error:
        raise RunError(run.path, f"damaged: {error.problem}", error.remedy) from None
    kept = sum(int(mask.sum()) for mask in masks.values())
    if kept != run.result.weights.kept:
        raise RunError(run.path, f"damaged: its mask keeps {kept:,} weights, where its result says otherwise")
    return masks


def density_grid(matrices: Sequence[Matrix]) -> Grid:
    """Share of the weights that each matrix keeps."""
    return ratios(matrices, lambda matrix: (matrix.kept, matrix.size))


def ratios(matrices: Sequence[Matrix], of: Callable[[Matrix], tuple[float, float]]) -> Grid:
    """Ratios of sums: `of` gives a matrix's numerator and denominator."""
    layers, columns = sorted({matrix.layer for matrix in matrices}), kinds(matrices)

    def ratio(some: Sequence[Matrix]) -> float:
        pairs = [of(matrix) for matrix in some]
        below = sum(pair[1] for pair in pairs)
        return sum(pair[0] for pair in pairs) / below if below else 0.0

    def at(layer: int | None, kind: str | None) -> list[Matrix]:
        return [m for m in matrices if layer in (None, m.layer) and kind in (None, m.kind)]

    cells = [[at(layer, kind) for kind in columns] for layer in layers]
    return Grid(
        layers,
        columns,
        [[ratio(cell) if cell else None for cell in row] for row in cells],
        [ratio(at(layer, None)) for layer in layers],
        [ratio(at(None, kind)) for kind in columns],
        ratio(matrices),
    )
