"""Training rows of a GLUE task held out as a dev set, to choose settings on: never on the real one.

    python benchmarks/hold_out.py --data-dir … --output held-out
    smp prune --task sst2 --data-dir held-out …

Makes train.tsv and dev.tsv of SST-2, or of --task RTE, MRPC, STS-B or CoLA, in the output folder. Held out are 3,000
sentences of SST-2 of at least twelve words: most of its rows are phrases of a sentence, and those of three words or
more that stand in a held-out one would tell its label, and are left out of training. Of the others it is every sixth
row of a random order.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

SENTENCES, LONG, TELLING = 3000, 12, 3
TASKS = ("SST-2", "RTE", "MRPC", "STS-B", "CoLA")


def split(rows: list[str]) -> tuple[list[str], list[str]]:
    """Training and held-out rows of a task other than SST-2, in their old order."""
    held = set(np.random.default_rng(0).permutation(len(rows))[::6].tolist())
    return [row for index, row in enumerate(rows) if index not in held], [rows[index] for index in sorted(held)]


def split_sentences(rows: list[str]) -> tuple[list[str], list[str]]:
    """Training and held-out rows of SST-2, each "sentence<tab>label", in their old order."""
    texts = [row.split("\t")[0].strip() for row in rows]
    long = [index for index, text in enumerate(texts) if len(text.split()) >= LONG]
    held = set(np.random.default_rng(0).permutation(long)[:SENTENCES].tolist())
    joined = "\n".join(texts[index] for index in sorted(held))
    told = {index for index, text in enumerate(texts) if len(text.split()) >= TELLING and text in joined}
    left_out = held | told
    train = [row for index, row in enumerate(rows) if index not in left_out]
    return train, [rows[index] for index in sorted(held)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, default="SST-2")
    options = parser.parse_args()
    source, folder = options.data_dir / options.task / "train.tsv", options.output / options.task
    if not source.is_file():
        parser.error(f"there is no {source}: give the folder of the original GLUE files as --data-dir")
    if folder.exists():  # it may be the original itself
        parser.error(f"{folder} exists: give another --output")
    rows = source.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    header = [] if options.task == "CoLA" else [rows.pop(0)]
    parts = split_sentences(rows) if options.task == "SST-2" else split(rows)
    folder.mkdir(parents=True)
    for name, part in zip(("train", "dev"), parts, strict=True):
        (folder / f"{name}.tsv").write_text("\n".join([*header, *part]) + "\n", encoding="utf-8")
        print(f"{len(part):,} rows in {folder / name}.tsv")


if __name__ == "__main__":
    main()
