"""Does accuracy move when batches hold texts of similar length? Trains in each order.

Prints dev metrics and the processor's seconds.

    OMP_NUM_THREADS=1 python benchmarks/order.py --data-dir … --seeds 0 1 2 --windows 1 50 --micro-batches 1 8

Everything but the order is the same. With a window of 1, batches are of examples that chance brings together.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import product
from pathlib import Path

from smpcli import prune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir")
    parser.add_argument("--methods", nargs="+", default=["smp", "dense"])
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--max-steps", type=int, default=400)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 50])
    parser.add_argument("--micro-batches", nargs="+", type=int, default=[1])
    options = parser.parse_args()
    for seed in options.seeds:
        for method in options.methods:
            for window, parts in product(options.windows, options.micro_batches):
                with tempfile.TemporaryDirectory() as folder:
                    started = time.process_time()
                    run = prune(
                        task=options.task,
                        method=method,
                        sparsity=None if method == "dense" else options.sparsity,
                        max_steps=options.max_steps,
                        seed=seed,
                        bucket_window=window,
                        micro_batches=parts,
                        data_dir=options.data_dir,
                        evaluations=1,
                        output=Path(folder) / "run",
                    )
                    seconds = time.process_time() - started
                    order = f"window {window}, micro-batches {parts}"
                    print(f"{method} seed {seed}, {order}: {run.result.metrics}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
