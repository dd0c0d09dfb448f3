"""README's picture, from the first table of docs/results.md: accuracy of each method against what remains.

python benchmarks/headline.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "figures" / "headline.svg"
LOWEST = 76.0  # per cent, where the axis begins


def rows() -> tuple[list[float], dict[str, list[tuple[float, float] | None]]]:
    """The sparsities of the table's head, in per cent, and each row's (mean, std) under them; dense comes first."""
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")
    ]
    head, _, *lines = table
    found = {}
    for name, *cells in lines:
        pairs = [re.search(r"([\d.]+) ± ([\d.]+)", cell) for cell in cells]
        if any(pairs):
            found[re.sub(r"[*]|\(.*?\)", "", name).strip()] = [
                (float(pair[1]), float(pair[2])) if pair else None for pair in pairs
            ]
    return [float(cell.split()[0]) for cell in head[2:]], found


def main() -> None:
    matplotlib.rcParams |= {
        "svg.hashsalt": "smp",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    sparsities, found = rows()
    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
    styles = dict(zip(found, ["o-", "o--", "s:", "^:", "v:", "D:"], strict=True))
    for index, (name, (_, *values)) in enumerate(found.items()):
        marks = [
            (100 - sparsity, *value) for sparsity, value in zip(sparsities, values, strict=True) if value is not None
        ]
        remaining, means, stds = zip(*marks, strict=True)
        label = f"smp, {name.split(' ,')[0].split(',')[0]}" if index < 2 else f"{name}, 400 steps"
        colour = "C0" if index < 2 else f"C{index - 1}"
        line: dict[str, Any] = {"color": colour, "fmt": styles[name], "capsize": 2, "markersize": 4}
        for left, mean, _ in marks:
            if mean < LOWEST:
                axes.annotate(f"{name}: {mean:g} ↓", (left * 1.08, LOWEST + 0.3), color=colour, fontsize=8)
        axes.errorbar(remaining, means, stds, label=label, zorder=9 - index, **line)
    for row, style in ((0, "-"), (1, "--")):
        dense = list(found.values())[row][0]
        assert dense
        axes.axhline(dense[0], color="grey", linestyle=style, linewidth=0.8)
        axes.annotate(f"dense, {list(found)[row].split(',')[0]}", (2.75, dense[0] + 0.15), color="grey", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(2.6, 92)
    axes.set_ylim(LOWEST, 91.2)
    axes.set_xticks([100 - sparsity for sparsity in sparsities], [f"{100 - sparsity:g} %" for sparsity in sparsities])
    axes.minorticks_off()
    axes.set_xlabel("weights that remain")
    axes.set_ylabel("SST-2 accuracy, %")
    axes.legend(loc="lower right", frameon=False, ncols=2, fontsize=8)
    figure.savefig(TARGET, metadata={"Date": None})


if __name__ == "__main__":
    main()
