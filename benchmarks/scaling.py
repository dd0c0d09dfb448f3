"""Step time and peak memory of SMP beside dense fine-tuning, against model size and against text length.

    python benchmarks/scaling.py --output results/scaling

BERT shapes with random weights from 2 layers of 128 up to BERT-large; writes scaling.json and scaling.png. Both
methods take turns in one process, peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import BertConfig, BertModel
from transformers.utils import logging

from smpcli.bench.train import Case, time_methods
from smpcli.modeling.backbone import load_tokenizer

# (layers, hidden size): tiny, mini, the embedded model's, small, base, large.
SHAPES = [(2, 128), (4, 256), (6, 384), (4, 512), (12, 768), (24, 1024)]
LENGTHS = [16, 32, 64, 128, 256]


def random_model(folder: Path, layers: int, hidden: int) -> str:
    """A BERT of that shape with random weights, as a folder."""
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
    )
    BertModel(config).save_pretrained(folder)
    load_tokenizer("minilm").save_pretrained(folder)
    return str(folder)


def measure(model: str, options: argparse.Namespace, length: int, batch_size: int) -> dict[str, Any]:
    case = Case(model, batch_size, length, options.precision, "cpu", 0.9, {}, options.threads)
    dense, ours = time_methods([options.method], case, options.rounds, memory=True)
    return {"dense": asdict(dense), "pruned": asdict(ours)}


def draw(rows: list[dict[str, Any]], file: Path, method: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, kind, label in zip(
        axes, ("size", "length"), ("prunable weights (millions)", "tokens a text (embedded model)"), strict=True
    ):
        chosen = [row for row in rows if row["kind"] == kind]
        across = [row["x"] for row in chosen]
        axis.plot(across, [row["pruned"]["ratio"] for row in chosen], "o-k", label="step time")
        memory = [row["pruned"]["peak_memory"] / row["dense"]["peak_memory"] for row in chosen]
        axis.plot(across, memory, "s--", color="0.5", label="peak memory")
        axis.axhline(1, color="0.7", linewidth=1)
        axis.set_xscale("log")
        if kind == "length":
            axis.set_xticks(across, [str(x) for x in across])
            axis.minorticks_off()
        axis.set_xlabel(label)
    axes[0].set_ylabel(f"{method} / dense")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="smp")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--output", type=Path, default=Path("results/scaling"))
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []

    def add(kind: str, x: float, name: str, found: dict[str, Any]) -> None:
        rows.append({"kind": kind, "x": x, "name": name, **found})
        dense, ours = found["dense"], found["pruned"]
        print(
            f"{name:28s} dense {dense['seconds']:.3f} s, {options.method} {ours['seconds']:.3f} s, "
            f"ratio {ours['ratio']:.2f}; peak memory {dense['peak_memory'] / 2**20:,.0f} and "
            f"{ours['peak_memory'] / 2**20:,.0f} MiB, ratio {ours['peak_memory'] / dense['peak_memory']:.2f}",
            flush=True,
        )
        (options.output / "scaling.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")

    for layers, hidden in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(Path(folder), layers, hidden)
            prunable = 12 * layers * hidden**2 / 1e6
            add("size", prunable, f"{layers} x {hidden}, batch 8 x 64", measure(model, options, 64, 8))
    for length in LENGTHS:
        add("length", length, f"embedded, batch 16 x {length}", measure("minilm", options, length, 16))
    draw(rows, options.output / "scaling.png", options.method)


if __name__ == "__main__":
    main()
