"""What does a run of a sweep cost beside its steps? Makes the same short runs with each engine, in turns.

Prints each sweep's seconds, then for each engine and number of workers the median.

    OMP_NUM_THREADS=1 python benchmarks/engines.py --task movies --steps 20 --runs 6 --workers 1 2 --turns 3
    python benchmarks/engines.py --engines pool --task movies --steps 400 --runs 60 --workers 16 --turns 1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from smpcli import sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["local", "pool"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1])
    parser.add_argument("--task", default="movies")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--methods", nargs="+", default=["smp", "movement"])
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    settings = {"model": options.model, "max_steps": options.steps, "evaluations": 1}
    seeds = ", ".join(map(str, range(options.runs // len(options.methods))))
    taken: dict[tuple[int, str], list[float]] = {}
    for _ in range(options.turns):
        for workers in options.workers:
            for engine in options.engines:
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder) / "runs.yaml"
                    file.write_text(
                        f"methods: [{', '.join(options.methods)}]\nseeds: [{seeds}]\ntasks: ['{options.task}']\n"
                    )
                    started = time.perf_counter()
                    runs = sweep(file, output=folder, settings=settings, workers=workers, engine=engine)
                    seconds = time.perf_counter() - started
                    if failed := [run.error for run in runs if run.state != "finished"]:
                        raise SystemExit(f"{engine}: {failed[0]}")
                taken.setdefault((workers, engine), []).append(seconds)
                print(f"{engine}, {workers} workers: {len(runs)} runs in {seconds:.1f} s", flush=True)
    for (workers, engine), found in sorted(taken.items()):
        print(f"{engine}, {workers} workers: median {statistics.median(found):.1f} s")


if __name__ == "__main__":
    main()
