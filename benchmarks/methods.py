"""The table of docs/results.md: every method at several sparsities and seeds, equal data and steps.

    python benchmarks/methods.py --task sst2 --max-steps 1000 --output results/methods

Runs that are finished are skipped, so the command can be repeated after an interruption. Each run is a process of
its own (`smp prune`), `--workers` at a time with an equal share of the cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

METHODS = ["dense", "smp", "movement", "soft-movement", "magnitude"]


def commands(options: argparse.Namespace) -> list[list[str]]:
    made = []
    for seed in options.seeds:
        for method in options.methods:
            for sparsity in [None] if method == "dense" else options.sparsities:
                command = ["--task", options.task, "--method", method, "--seed", str(seed)]
                command += ["--output", str(options.output), "--quiet"]
                command += [] if sparsity is None else ["--sparsity", str(sparsity)]
                command += [] if options.max_steps is None else ["--max-steps", str(options.max_steps)]
                for assignment in options.set:
                    command += ["--set", assignment]
                made.append(command)
    return made


def run(command: list[str], threads: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "smpcli", "prune", *command],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    # A finished run refuses to be overwritten: that is how it is skipped.
    return (done.stdout or done.stderr).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.5, 0.9, 0.97])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("results/methods"))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    with ThreadPoolExecutor(options.workers) as pool:
        for line in pool.map(lambda command: run(command, threads), commands(options)):
            print(line, flush=True)
    subprocess.run([sys.executable, "-m", "smpcli", "compare", str(options.output)], check=True)


if __name__ == "__main__":
    main()
