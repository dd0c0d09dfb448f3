"""How long a training step of each method takes on this machine, and how much memory, beside dense fine-tuning.

All methods train in one process and take turns, a few steps each, so that whatever else the machine does meets all
alike; what counts is each one's ratio to dense within the same turn. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
import torch

from smpcli.bench.memory import peak_memory
from smpcli.device import make_accelerator, settled
from smpcli.encoding.batches import Encoded, training_order
from smpcli.errors import UserError, one_line
from smpcli.modeling.backbone import load_tokenizer
from smpcli.settings import Settings, resolve
from smpcli.training.session import Session, assemble

DENSE = "dense"
# Steps of a method's turn. The first is not counted: it finds the caches full of another method's data.
TURN = 4
# Each step is one near the end of a long run: the final density, nearly the whole penalty, a learning rate above 0.
STEPS, STEP = 1000, 900


@dataclass(frozen=True)
class Case:
    """What is trained: batches of `batch_size` random texts of exactly `length` tokens. threads: of torch."""

    model: str
    batch_size: int
    length: int
    precision: str
    device: str
    sparsity: float
    settings: dict[str, Any]
    threads: int | None = None


@dataclass(frozen=True)
class Timed:
    """A row of the answer. ratio: median over turns of its seconds a step / dense's; peak_memory in bytes."""

    method: str
    seconds: float
    ratio: float
    peak_memory: int


class Contestant:
    """One method, its model and optimiser, ready to train some more steps. stacked: as in `assemble`."""

    def __init__(self, method: str, case: Case, stacked: bool | None = None) -> None:
        self.method = method
        self.session = session = _session(_settings(method, case), case, stacked)
        session.steps = STEPS
        self.training = session.training()
        self.training.model.train()
        self.batches = session.batches(training_order(session.settings, session.train_set))

    def steps(self, count: int) -> list[float]:
        """Train `count` steps; seconds of all but the first."""
        ends: list[float] = []
        for batch in islice(self.batches, count):
            self.training.step(STEP, batch)
            ends.append(time.perf_counter())
        return list(np.diff(ends))


def time_methods(
    methods: list[str], case: Case, rounds: int, memory: bool, on_round: Callable[[int], None] = lambda done: None
) -> list[Timed]:
    """Dense and `methods`, in turns, `rounds` times. Raises UserError for a method or setting that doesn't exist."""
    names = [DENSE, *(method for method in methods if method != DENSE)]
    for name in names:
        _settings(name, case)
    if case.threads:
        torch.set_num_threads(case.threads)
    peaks = {name: _peak_of_own_process(name, case) if memory else 0 for name in names}
    contestants = {name: Contestant(name, case) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for done in range(rounds + 1):
        for name, contestant in contestants.items():
            seconds = median(contestant.steps(TURN))
            # The first turn warms up: memory is asked for, kernels are chosen.
            if done:
                times[name].append(seconds)
        on_round(done)
    return [
        Timed(
            name,
            median(times[name]),
            median(own / dense for own, dense in zip(times[name], times[DENSE], strict=True)),
            peaks[name],
        )
        for name in names
    ]


def _settings(method: str, case: Case) -> Settings:
    # Masks are refreshed at the final density all the time, and no run is so short that a schedule would matter.
    flat = {
        **case.settings,
        "task": "movies",
        "method": method,
        "model": case.model,
        "batch_size": case.batch_size,
        "max_length": case.length,
        "precision": case.precision,
        "device": case.device,
        "max_steps": TURN,
    }
    if method == DENSE:
        return resolve(flags={key: value for key, value in flat.items() if key not in case.settings})
    return resolve(flags={"ramp_end": 0.0, **flat, "sparsity": case.sparsity})


def _session(settings: Settings, case: Case, stacked: bool | None) -> Session:
    settings = settled(settings)
    accelerator = make_accelerator(settings.run.device)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(settings.run.model)
    random = np.random.default_rng(0)
    count = 8 * case.batch_size
    ids = random.integers(len(tokenizer) // 2, len(tokenizer), (count, case.length)).tolist()
    columns = {"input_ids": ids, "attention_mask": [[1] * case.length] * count}
    labels = torch.arange(count) % 2
    padding = dict.fromkeys(columns, 0)
    data = Encoded(columns, labels, padding)
    return assemble(settings, settings.task.labels, tokenizer, data, {"dev": data}, accelerator, stacked=stacked)


def _peak_of_own_process(method: str, case: Case) -> int:
    command = [sys.executable, "-m", "smpcli.bench.train", method, json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(one_line(f"{method} can't be measured: {reason}"))
    return int(done.stdout.split()[-1])


def _lines() -> Iterator[str]:
    """Peak memory of some steps of a method, in bytes: of the GPU where there is one, else of this process."""
    method, text = sys.argv[1:]
    case = Case(**json.loads(text))
    if case.threads:
        torch.set_num_threads(case.threads)
    contestant = Contestant(method, case)
    contestant.steps(TURN)
    device = contestant.session.accelerator.device
    if device.type == "cuda":
        yield str(torch.cuda.max_memory_allocated(device))
    else:
        yield str(peak_memory())


if __name__ == "__main__":
    try:
        sys.stdout.writelines(_lines())
    except UserError as error:
        sys.exit(str(error))
