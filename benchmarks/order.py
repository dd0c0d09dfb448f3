"""Does accuracy move when batches hold texts of similar length? Trains both ways and prints each dev metric.

    OMP_NUM_THREADS=1 python benchmarks/order.py --data-dir … --seeds 0 1 2

Everything but the order of examples is the same. Batches of a plain random order take longer: more padding.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from smpcli import prune
from smpcli.training import batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir")
    parser.add_argument("--methods", nargs="+", default=["smp", "dense"])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--max-steps", type=int, default=400)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    bucketed = batches.WINDOW
    for seed in options.seeds:
        for method in options.methods:
            for window in (bucketed, 1):
                batches.WINDOW = window
                with tempfile.TemporaryDirectory() as folder:
                    run = prune(
                        task=options.task,
                        method=method,
                        sparsity=None if method == "dense" else options.sparsity,
                        max_steps=options.max_steps,
                        seed=seed,
                        data_dir=options.data_dir,
                        evaluations=1,
                        output=Path(folder) / "run",
                    )
                    order = "random" if window == 1 else f"similar length inside {window} batches"
                    print(f"{method} seed {seed}, {order}: {run.result.metrics}", flush=True)


if __name__ == "__main__":
    main()
