"""`smp inspect`: what one run's mask looks like, how two differ, and how a mask moved during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from smpcli.errors import UserError
from smpcli.inspection.looks import Look, Looks, Overlap, density_grid, ratios, read_masks
from smpcli.inspection.matrices import Matrix, compact, describe
from smpcli.runs.rundir import MASKS, RunDir

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from torch import Tensor


@dataclass(frozen=True)
class Inspection(Looks):
    """One look, or two with their overlap. Printing one with rich shows heat maps and tables."""

    def to_plot(self, path: Path | str) -> None:
        """Draw the heat maps into a png, svg or pdf file. Raises `UserError`."""
        from smpcli.inspection.heatmap import draw

        draw(self, Path(path))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from smpcli.inspection.terminal_maps import render

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
                f"{paths[0]} and {paths[1]} prune different matrices, such as {strange[0]}",
                "two runs of one model can be compared",
            )
    looks = [_look(run, one) for run, one in zip(runs, masks, strict=True)]
    return Inspection(looks, _overlap(looks, masks) if len(masks) == 2 else None)


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
    """Heads of a block: the run says so, or an older run's model, where that is on this machine. None: not known."""
    if run.result.model.heads is not None:
        return run.result.model.heads
    from smpcli.modeling.backbone import load_config
    from smpcli.modeling.layers import attention_heads

    try:
        return attention_heads(load_config(run.result.model.name, local_only=True)) or None
    except UserError:
        return None


def _overlap(looks: Sequence[Look], masks: Sequence[Mapping[str, Tensor]]) -> Overlap:
    both = {name: int((mask & masks[1][name]).sum()) for name, mask in masks[0].items()}
    second = {matrix.name: matrix.kept for matrix in looks[1].matrices}

    def found(matrix: Matrix) -> tuple[float, float]:
        return both[matrix.name], matrix.kept + second[matrix.name] - both[matrix.name]

    def by_chance(matrix: Matrix) -> tuple[float, float]:
        shared = matrix.kept * second[matrix.name] / matrix.size
        return shared, matrix.kept + second[matrix.name] - shared

    return Overlap(ratios(looks[0].matrices, found), ratios(looks[0].matrices, by_chance))
