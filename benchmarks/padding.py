"""How much of an epoch is padding, and what batches of similar length save over padding to a fixed length.

    OMP_NUM_THREADS=1 python benchmarks/padding.py --task sst2 --data-dir …

Padding is counted over whole epochs, without a model. Step times are of whole steps of `smp prune`: every batch once
as the loader makes it, once padded to --length, in turns in one process; printed are the medians and the ratio of the
means, which is that of an epoch. Seconds are the processor's, of all threads, so that other programs don't count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn.functional import pad

from smpcli.encoding.batches import Encoded, LengthBuckets, chunks, encode, training_order
from smpcli.errors import UserError
from smpcli.settings import resolve
from smpcli.tasks.data import load_data
from smpcli.tasks.examples import Examples

# (bucket_window, micro_batches)
ORDERS = [(1, 1), (8, 1), (50, 1), (10, 4), (10, 8)]


def padding(order: LengthBuckets) -> float:
    """Fraction of the first epoch's tokens that are padding."""
    lengths = order.lengths
    computed = [part for batch in order.batches(0) for part in chunks(batch, order.bucket)]
    return 1 - float(lengths.sum()) / sum(len(part) * int(lengths[part].max()) for part in computed)


def scatter(order: LengthBuckets, labels: np.ndarray) -> float:
    """Standard deviation of batches' mean labels, over ten epochs: in a random order that of chance."""
    return float(np.std([labels[batch].mean() for epoch in range(10) for batch in order.batches(epoch)]))


def step_times(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each whole step of `smp prune`: every batch twice in a row, as it is and padded."""
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from smpcli.device import settled
    from smpcli.training import session

    flags = {"task": options.task, "data_dir": options.data_dir, "batch_size": options.batch, "evaluations": 1}
    settings = settled(resolve(flags=flags | {"max_steps": 2 * (options.steps + 1)}))
    accelerator = Accelerator()
    data = load_data(settings.task, Path(options.data_dir) if options.data_dir else None)

    def twice(encoded: Encoded, order: LengthBuckets, *rest: int) -> DataLoader[Any]:
        turn = cycle((False, True))

        def collate(indices: list[int]) -> Any:
            if not next(turn):
                return [encoded.collate(part) for part in chunks(indices, order.bucket)]
            inputs, labels = encoded.collate(indices)
            padded = {
                name: pad(block, (0, options.length - block.shape[1]), value=encoded.padding[name])
                for name, block in inputs.items()
            }
            return [(padded, labels)]

        batches = [batch for batch in order for _ in range(2)]
        return DataLoader(encoded, batch_sampler=batches, collate_fn=collate)

    session.training_loader = twice  # type: ignore[assignment]
    ready = session.prepare(settings, data, accelerator)
    ended = []
    ready.train(lambda step: ended.append(time.process_time()))
    # Without the first batch, which warms up, and the evaluation at the end.
    seconds = np.diff(ended)[1 : 1 + 2 * options.steps]
    return {"as they are": seconds[0::2].tolist(), "padded": seconds[1::2].tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--data-dir")
    parser.add_argument("--batch", type=int, help="of the timed steps (default: the task's)")
    parser.add_argument("--length", type=int, default=128, help="what the other side is padded to")
    parser.add_argument("--steps", type=int, default=12, help="timed steps; 0: count padding only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from smpcli.modeling.backbone import load_tokenizer

    settings = resolve(flags={"task": options.task, "data_dir": options.data_dir})
    data = load_data(settings.task, Path(options.data_dir) if options.data_dir else None)
    tokenizer = load_tokenizer(settings.run.model)
    if not isinstance(data.train, Examples):
        raise UserError(f"--task {options.task} has questions, whose windows have no labels: name another")
    encoded = encode(tokenizer, data.train, settings.max_length)
    found: dict[str, Any] = {"examples": len(encoded), "tokens an example": float(encoded.lengths.mean())}
    for batch in (32, 64):
        found[f"padding, batch {batch}"] = [
            padding(training_order(settings.replace(batch_size=batch, seed=seed), encoded)) for seed in range(3)
        ]
        found[f"padding in random order, batch {batch}"] = padding(LengthBuckets(encoded.lengths, batch, 0, window=1))
    labels = encoded.labels.double().numpy()
    found["correlation of length and label"] = float(np.corrcoef(encoded.lengths, labels)[0, 1])
    for window, parts in ORDERS:
        order = LengthBuckets(encoded.lengths, settings.run.batch_size, 0, window, parts)
        named = f"batch {settings.run.batch_size}, window {window}, micro-batches {parts}"
        found[named] = {"padding": padding(order), "scatter of the mean label": scatter(order, labels)}
    found[f"padding to {options.length}"] = 1 - float(encoded.lengths.mean()) / options.length
    found["tokenising"] = tokenising(tokenizer, data, settings.max_length)
    if options.steps:
        times = step_times(options)
        found["seconds a step"] = {name: statistics.median(seconds) for name, seconds in times.items()}
        found["times faster"] = statistics.fmean(times["padded"]) / statistics.fmean(times["as they are"])
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")


def tokenising(tokenizer: Any, data: Any, length: int) -> dict[str, float]:
    """Processor seconds of tokenising all training texts, and of reading them from the cache (medians of three)."""
    import os

    seconds: dict[str, list[float]] = {"tokenised": [], "cached": []}
    before = os.environ.get("SMP_CACHE_DIR")
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SMP_CACHE_DIR"] = folder
            for name in seconds:
                started = time.process_time()
                encode(tokenizer, data.train, length)
                seconds[name].append(time.process_time() - started)
    del os.environ["SMP_CACHE_DIR"]
    if before is not None:
        os.environ["SMP_CACHE_DIR"] = before
    return {name: statistics.median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
