"""Where the runs of a sweep are carried out: processes on this machine (`pool.py`: that stay), or a Ray cluster."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

from pruners.registry import Registry
from smpcli.errors import UserError, joined, one_line

KILLED = 128  # plus the signal: a shell's exit code of a process that a signal ended
RAY_RETRIES = 3
REACH_SECONDS = 5
STOP_SECONDS = 20


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its exit code, and what it said where that isn't 0."""

    code: int
    message: str


class Engine(Protocol):
    """Carries out as many runs at a time as it has `slots`. remark: what is worth knowing once a run has begun."""

    slots: int
    remark: str | None

    def start(self, name: str, job: Mapping[str, Any]) -> None: ...
    def ended(self) -> dict[str, Outcome]: ...
    def stop(self) -> None: ...


#: Each makes an engine of the number of workers and the cluster's address.
ENGINES: Registry[Callable[[int | None, str | None], Engine]] = Registry(
    "engine",
    {
        "local": ("smpcli.sweeping.engines:LocalEngine", "a process for each run, here"),
        "pool": ("smpcli.sweeping.pool:PoolEngine", "processes here that make one run after another"),
        "ray": ("smpcli.sweeping.engines:RayEngine", "a Ray cluster"),
    },
)


def fair_threads(workers: int, cpus: float | None = None) -> int:
    """Threads of each of several processes that share the processors of this machine (or `cpus`)."""
    if cpus is None:
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(cpus) // workers)


def usual(devices: Iterable[str]) -> str:
    """The engine for runs with these --device: where a GPU makes short runs short, setting up takes most of them."""
    import torch

    return "pool" if torch.cuda.is_available() and any(device != "cpu" for device in devices) else "local"


def check(engine: str | None, workers: int | None, address: str | None) -> None:
    """Raise `UserError` for what can't be meant, before anything begins."""
    if engine is not None:
        ENGINES.require(engine)
    if address is not None and engine != "ray":
        raise UserError("--address names a Ray cluster", "add --engine ray")
    if workers is not None and workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}")
    if engine == "ray" and find_spec("ray") is None:
        raise UserError("Ray isn't installed", "pip install 'smp-prune[ray]', or leave out --engine ray")


def make(engine: str, workers: int | None, address: str | None) -> Engine:
    return ENGINES.load(engine)(workers, address)


class Worker:
    """A process that makes one run after another (`worker.py`). slot: its share of the machine; device: its runs'."""

    def __init__(self, slot: int, device: str, share: Mapping[str, str]) -> None:
        self.slot, self.device = slot, device
        self.run: str | None = None
        # A file, as nobody empties a pipe.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smpcli.sweeping.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            bufsize=0,
            env={**os.environ, **share},
            # Ctrl-C in a terminal reaches the sweep alone, which then ends its workers.
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._jobs, self._answers = self.process.stdin, self.process.stdout
        os.set_blocking(self._answers.fileno(), False)

    def begin(self, name: str, job: Mapping[str, Any]) -> None:
        self.run = name
        # What an earlier run said isn't this one's; the process writes on from where this leaves the file.
        self._said.seek(0)
        self._said.truncate()
        # One that is dead already is found among those that ended.
        with suppress(BrokenPipeError):
            self._jobs.write(json.dumps(job, default=os.fspath).encode() + b"\n")

    def outcome(self) -> Outcome | None:
        """How its run ended; None while it goes on. One that failed has ended the process, too."""
        code = self.process.poll()
        with suppress(BlockingIOError):
            if self._answers.read(1):
                return Outcome(0, "")
        if code is None:
            return None
        self._said.seek(0)
        return _outcome(code, self._said.read().decode("utf-8", "replace").strip())

    def end(self, seconds: float) -> None:
        """Wait for a process that was told to end, and don't wait long."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for file in (self._said, self._jobs, self._answers):
            file.close()


class LocalEngine:
    """Each run in a process of its own; several share the processors and, in turn, the GPUs of this machine."""

    #: Whether a process makes further runs when it has made one.
    lasting = False

    def __init__(self, workers: int | None, address: str | None = None) -> None:
        self.slots = workers or 1
        self.remark: str | None = None
        self._workers: list[Worker] = []

    def start(self, name: str, job: Mapping[str, Any]) -> None:
        self._worker(job["settings"].get("device", "auto")).begin(name, job)

    def _worker(self, device: str) -> Worker:
        """One that is idle, or a new one. Its runs share a device, as a process is set up for one."""
        for worker in [worker for worker in self._workers if worker.run is None]:
            if worker.device == device and worker.process.poll() is None:
                return worker
            self._end(worker)
        taken = {worker.slot for worker in self._workers}
        slot = next(slot for slot in range(self.slots) if slot not in taken)
        self._workers.append(Worker(slot, device, self._share(slot)))
        return self._workers[-1]

    def ended(self) -> dict[str, Outcome]:
        found = {}
        for worker in list(self._workers):
            outcome = worker.outcome() if worker.run is not None else None
            if outcome is None or worker.run is None:
                continue
            found[worker.run] = outcome
            worker.run = None
            if outcome.code != 0 or not self.lasting:
                self._end(worker)
        return found

    def stop(self) -> None:
        """End all runs; each has some seconds to write a checkpoint."""
        self._end(*self._workers)

    def _end(self, *workers: Worker) -> None:
        for worker in workers:
            worker.process.terminate()
        end = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.end(max(0.0, end - time.monotonic()))
            self._workers.remove(worker)

    def _share(self, slot: int) -> dict[str, str]:
        """A worker's part of the machine, as variables of its environment."""
        share = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(fair_threads(self.slots))}
        if self.slots > 1 and (devices := cuda_devices()):
            share["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        return share


def cuda_devices() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _outcome(code: int, text: str) -> Outcome:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        remedy = "out of memory? fewer --workers need less" if name == "SIGKILL" else ""
        return Outcome(KILLED - code, joined(f"its process was ended by {name}", remedy))
    last = text.splitlines()[-1] if text else f"ended with exit code {code}"
    return Outcome(code, last)


def _reach(address: str) -> None:
    """Raise `UserError` where nobody listens: Ray itself would try for minutes."""
    place = address.removeprefix("ray://")
    host, colon, port = place.rpartition(":")
    if place == "auto":
        return
    if not (colon and host and port.isdecimal()):
        raise UserError(f"--address takes host:port, ray://host:port or auto, not '{address}'")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster at {address}: {error}", "`ray start --head` starts one") from error


class RayEngine:
    """Runs as tasks of a Ray cluster; Ray starts a run again when the worker that had it dies.

    Without an address, a cluster on this machine is started, and ended with the sweep.
    """

    def __init__(self, workers: int | None, address: str | None) -> None:
        import ray

        from smpcli.sweeping.worker import make_run

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = ray
        self.remark: str | None = None
        self._tasks: dict[Any, str] = {}
        if address is not None:
            _reach(address)
        # Ray prints on stdout what its workers die of.
        self._hushed = redirect_stdout(io.StringIO())
        here = {"address": "local", "num_cpus": workers or 1, "include_dashboard": False}
        try:
            self._hushed.__enter__()
            ray.init(
                **({"address": address} if address else here),
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            self._hushed.__exit__(None, None, None)
            raise UserError(f"no Ray cluster at {address or 'this machine'}: {one_line(str(error), 150)}") from error
        everything = ray.cluster_resources()
        cpus, gpus = everything.get("CPU", 1), everything.get("GPU", 0)
        self.slots = workers or len(ray.nodes())
        # A local cluster counts workers, one of another place its processors.
        threads = fair_threads(self.slots, cpus if address else None)
        variables = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
        self._run = ray.remote(
            num_cpus=threads if address else 1,
            num_gpus=min(1, gpus / self.slots),
            max_retries=RAY_RETRIES,
            runtime_env={"env_vars": variables},
        )(make_run)

    def start(self, name: str, job: Mapping[str, Any]) -> None:
        self._tasks[self._run.remote(json.loads(json.dumps(job, default=os.fspath)))] = name

    def ended(self) -> dict[str, Outcome]:
        if not self._tasks:
            return {}
        done, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return {self._tasks.pop(task): self._outcome_of(task) for task in done}

    def _outcome_of(self, task: Any) -> Outcome:
        try:
            return Outcome(*self._ray.get(task))
        except self._ray.exceptions.RayError as error:
            return Outcome(
                KILLED + signal.SIGKILL, f"it died with {RAY_RETRIES + 1} workers ({type(error).__name__})"
            )

    def stop(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task, force=True)
        self._tasks.clear()
        self._ray.shutdown()
        self._hushed.__exit__(None, None, None)
