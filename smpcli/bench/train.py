"""How long a training step of each method takes on this machine, and how much memory, beside dense fine-tuning.

All methods train in one process and take turns, a few steps each, so that whatever else the machine does meets all
alike; what counts is each one's ratio to dense within the same turn. Peak memory is that of a process of its own; on
a GPU, where memory is counted, the most that a turn has beyond what was there before the method was.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
import torch

from pruners.methods import METHODS
from smpcli.bench.memory import peak_memory
from smpcli.device import make_accelerator, settled
from smpcli.encoding.batches import Encoded, training_order
from smpcli.errors import UserError, one_line
from smpcli.modeling.backbone import load_tokenizer
from smpcli.settings import RunSettings, Settings, resolve
from smpcli.training.session import Session, assemble

DENSE = "dense"
# Steps of a method's turn. The first is not counted: it finds the caches full of another method's data. On an
# accelerator, which is waited for at both ends, what the ends cost is spread over more of them.
TURN, ACCELERATOR_TURN = 4, 8
# Steps that are looked into on a GPU.
PROFILED = 3
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
class Work:
    """What a GPU does in a step. kernels: how many, copies and fills included; seconds: while at least one runs."""

    kernels: float
    seconds: float


@dataclass(frozen=True)
class Timed:
    """A row of the answer. ratio: median over turns of its seconds a step / dense's; peak_memory in bytes.

    kernels, device_seconds: of a step on a GPU (`Work`).
    """

    method: str
    seconds: float
    ratio: float
    peak_memory: int
    kernels: float | None = None
    device_seconds: float | None = None


class Entrant:
    """Something that trains in turns; a step is on one batch of `batches`, which begin anew with each turn."""

    def __init__(self, batches: Iterable[Any], device: torch.device) -> None:
        self.batches, self.device = batches, device

    def step(self, batch: Any) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Called behind each turn, where an accelerator may be asked whether all is well."""

    def turn(self) -> float:
        """Train some steps; seconds a step of all but the first."""
        if self.device.type != "cpu":
            return self._turn_of_accelerator()
        ends: list[float] = []
        for batch in islice(self.batches, TURN):
            self.step(batch)
            ends.append(time.perf_counter())
        self.check()
        return median(np.diff(ends).tolist())

    def _turn_of_accelerator(self) -> float:
        """Steps only queue work, so time is taken where it is done."""
        start, steps = 0.0, 0
        for steps, batch in enumerate(islice(self.batches, ACCELERATOR_TURN)):
            self.step(batch)
            if steps == 0:
                torch.accelerator.synchronize(self.device)
                start = time.perf_counter()
        torch.accelerator.synchronize(self.device)
        seconds = time.perf_counter() - start
        self.check()
        return seconds / steps

    def work(self) -> Work | None:
        """What a GPU does in a step; None of another device, or where its profiler is shut off."""
        if self.device.type != "cuda":
            return None
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            for batch in islice(self.batches, PROFILED):
                self.step(batch)
            torch.cuda.synchronize(self.device)
        self.check()
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in profiler.events()
            # An annotation is a name for a stretch of kernels.
            if event.device_type.name == "CUDA" and not event.is_user_annotation
        ]
        return Work(len(spans) / PROFILED, 1e-6 * _covered(spans) / PROFILED) if spans else None


class Contestant(Entrant):
    """One method, its model and optimiser, ready to train some more steps. stacked: as in `assemble`."""

    def __init__(self, method: str, case: Case, stacked: bool | None = None) -> None:
        self.method = method
        self.session = session = _session(_settings(method, case), case, stacked)
        session.steps = STEPS
        self.training = session.training()
        self.training.model.train()
        # A step that chooses masks, where not every one does.
        self.number = STEP - STEP % self.training.mask_every
        order = training_order(session.settings, session.train_set)
        super().__init__(session.batches(order), session.accelerator.device)

    def step(self, batch: Any) -> None:
        self.training.step(self.number, batch)

    def check(self) -> None:
        self.training.health.read()


def methods_with_steps(case: Case) -> list[str]:
    """Every method that trains something. Raises UserError for a setting that one of them doesn't have."""
    return [name for name in METHODS if _resolved(name, case).trains]


def time_methods(
    methods: list[str], case: Case, rounds: int, memory: bool, on_round: Callable[[int], None] = lambda done: None
) -> list[Timed]:
    """Dense and `methods`, in turns, `rounds` times. Raises UserError for a method or setting that doesn't exist."""
    names = [DENSE, *(method for method in methods if method != DENSE)]
    for name in names:
        _settings(name, case)
    if case.threads:
        torch.set_num_threads(case.threads)
    on_gpu = make_accelerator(case.device).device.type == "cuda"
    peaks = {name: _peak_of_own_process(name, case) for name in names if memory and not on_gpu}
    entrants: dict[str, Entrant] = {}
    for name in names:
        entrants[name], peak = make_entrant(partial(Contestant, name, case))
        peaks.setdefault(name, peak if memory else 0)
    return take_turns(entrants, peaks, rounds, on_round)


def take_turns(
    entrants: Mapping[str, Entrant],
    peaks: Mapping[str, int],
    rounds: int,
    on_round: Callable[[int], None] = lambda done: None,
) -> list[Timed]:
    """As `time_methods`, of whatever trains in turns, `DENSE` among them. peaks: the peak memory of each."""
    times: dict[str, list[float]] = {name: [] for name in entrants}
    for done in range(rounds + 1):
        for name, one in entrants.items():
            seconds = one.turn()
            # The first turn warms up: memory is asked for, kernels are chosen.
            if done:
                times[name].append(seconds)
        on_round(done)
    work = {name: one.work() for name, one in entrants.items()}
    return [
        Timed(
            name,
            median(times[name]),
            median(own / dense for own, dense in zip(times[name], times[DENSE], strict=True)),
            peaks[name],
            None if (of := work[name]) is None else of.kernels,
            None if of is None else of.seconds,
        )
        for name in entrants
    ]


def make_entrant(make: Callable[[], Entrant]) -> tuple[Entrant, int]:
    """What is made, and on a GPU the most bytes that a turn of it has beyond those that were there; else 0."""
    if not torch.cuda.is_available():
        return make(), 0
    before = torch.cuda.memory_allocated()
    made = make()
    if made.device.type != "cuda":
        return made, 0
    made.turn()
    gc.collect()
    torch.cuda.reset_peak_memory_stats(made.device)
    made.turn()
    return made, torch.cuda.max_memory_allocated(made.device) - before


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total = end = 0.0
    for first, last in sorted(spans):
        total += max(last, end) - max(first, end)
        end = max(last, end)
    return total


def _resolved(method: str, case: Case) -> Settings:
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
        # Of the settings those that every method shares.
        return resolve(flags={key: value for key, value in flat.items() if key in RunSettings.model_fields})
    return resolve(flags={"ramp_start": 0.0, "ramp_end": 0.5, **flat, "sparsity": case.sparsity})


def _settings(method: str, case: Case) -> Settings:
    settings = _resolved(method, case)
    if not settings.trains:
        raise UserError(
            f"method '{method}' trains nothing, so it has no step to measure",
            "leave it out, or train a head with --set head=classifier",
        )
    return settings


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


def _peak() -> int:
    """Peak memory of some steps of a method, in bytes, in a process that does nothing else."""
    method, text = sys.argv[1:]
    case = Case(**json.loads(text))
    if case.threads:
        torch.set_num_threads(case.threads)
    Contestant(method, case).turn()
    return peak_memory()


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{_peak()}\n")
    except UserError as error:
        sys.exit(str(error))
