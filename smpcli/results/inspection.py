"""`smp inspect`: what one run's mask looks like, how two differ, and how a mask moved during training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError
from smpcli.results.matrices import Compact, Matrix, compact, describe, kinds
from smpcli.results.rundir import MASKS, RunDir, RunError
from smpcli.results.schema import Result

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
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
class Inspection:
    """One look, or two with their overlap. Printing one with rich shows heat maps and tables."""

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

    def to_plot(self, path: Path | str) -> None:
        """Draw the heat maps into a png, svg or pdf file. Raises `UserError`."""
        from smpcli.results.heatmap import draw

        draw(self, Path(path))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from smpcli.results.inspection_table import render

        yield from render(self)


def inspect(first: Path, second: Path | None = None) -> Inspection:
    """Look at the masks of one run, or of two that prune the same matrices.

    Raises `UserError` for a run that can't be used or has no mask, and for two whose matrices differ.
    """
    paths = [first] if second is None else [first, second]
    runs = [RunDir.open(path) for path in paths]
    for run in runs:
        if not run.has(MASKS):
            raise UserError(f"{run.path} has no mask, as method '{run.result.run.method}' prunes nothing")
    masks = [read_masks(run) for run in runs]
    if len(masks) == 2:
        shapes = [{name: tuple(mask.shape) for name, mask in one.items()} for one in masks]
        if shapes[0] != shapes[1]:
            strange = sorted(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name))
            raise UserError(
                f"{paths[0]} and {paths[1]} prune different matrices, such as {strange[0]}: "
                "two runs of one model can be compared"
            )
    looks = [_look(run, one) for run, one in zip(runs, masks, strict=True)]
    return Inspection(looks, _overlap(looks, masks) if len(masks) == 2 else None)


def read_masks(run: RunDir) -> dict[str, Tensor]:
    """The run's masks. Raises `RunError`, also where they don't hold what result.json counts."""
    try:
        masks = run.read_masks()
    except RunError:
        raise
    except UserError as error:
        raise RunError(run.path, f"is damaged: {error}") from None
    kept = sum(int(mask.sum()) for mask in masks.values())
    if kept != run.result.weights.kept:
        raise RunError(run.path, f"is damaged: its mask keeps {kept:,} weights, where its result says otherwise")
    return masks


def density_grid(matrices: Sequence[Matrix]) -> Grid:
    """Share of the weights that each matrix keeps."""
    return _grid(matrices, lambda matrix: (matrix.kept, matrix.size))


def _look(run: RunDir, masks: Mapping[str, Tensor]) -> Look:
    matrices = describe(masks)
    metric = run.result.metric
    moved = [
        {"step": row["step"], "density": row["density"], metric: row[metric], "turnover": row["turnover"]}
        for row in run.metrics
        if all(isinstance(row.get(key), int | float) for key in ("step", "density", metric, "turnover"))
    ]
    return Look(run.path, run.result, matrices, density_grid(matrices), compact(masks, _heads(run)), moved)


def _heads(run: RunDir) -> int | None:
    """Heads of a block by the model's configuration; None where that isn't on this machine."""
    from smpcli.modeling.backbone import load_config

    try:
        heads = getattr(load_config(run.result.model.name, local_only=True), "num_attention_heads", None)
    except UserError:
        return None
    return heads if isinstance(heads, int) and heads > 0 else None


def _overlap(looks: Sequence[Look], masks: Sequence[Mapping[str, Tensor]]) -> Overlap:
    both = {name: int((mask & masks[1][name]).sum()) for name, mask in masks[0].items()}
    second = {matrix.name: matrix.kept for matrix in looks[1].matrices}

    def found(matrix: Matrix) -> tuple[float, float]:
        return both[matrix.name], matrix.kept + second[matrix.name] - both[matrix.name]

    def by_chance(matrix: Matrix) -> tuple[float, float]:
        shared = matrix.kept * second[matrix.name] / matrix.size
        return shared, matrix.kept + second[matrix.name] - shared

    return Overlap(_grid(looks[0].matrices, found), _grid(looks[0].matrices, by_chance))


def _grid(matrices: Sequence[Matrix], of: Callable[[Matrix], tuple[float, float]]) -> Grid:
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
