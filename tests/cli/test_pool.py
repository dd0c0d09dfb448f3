"""The engines with processes of this machine: what stays from run to run, what doesn't, and who dies of what."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import Smp

from smpcli.sweeping.engines import LocalEngine, Outcome
from smpcli.sweeping.pool import PoolEngine
from smpcli.sweeping.worker import make_run, tidy

# Scores, drawn gates, neither.
METHODS = ("smp", "l0", "dense")
SAME = ("mask.safetensors", "weights.safetensors", "head.safetensors", "predictions.jsonl", "metrics.jsonl")


@pytest.fixture
def job(pico: Callable[[str], Path], sentiment: Any, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A run of 6 steps as the sweep describes it; `name` is its folder's where none is made before."""

    def describe(name: str, method: str = "smp", output: Path | None = None, **more: Any) -> dict[str, Any]:
        settings = {"model": str(pico("bert")), "task": str(sentiment.words), "method": method, "max_steps": 6}
        settings |= {"batch_size": 8, "max_length": 24, "evaluations": 2, "precision": "fp32", "device": "cpu"}
        if method != "dense":
            settings["sparsity"] = 0.5
        return {"id": name, "settings": settings | more, "output": str(output or tmp_path / "made")}

    return describe


@pytest.fixture
def engine() -> Iterator[Callable[..., Any]]:
    made: list[LocalEngine] = []

    def make(kind: type[LocalEngine] = PoolEngine, workers: int = 1) -> LocalEngine:
        made.append(kind(workers))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def outcomes(engine: LocalEngine, count: int, seconds: float = 240) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    end = time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < end, "waited in vain"
        found |= engine.ended()
        time.sleep(0.05)
    return found


def processes(engine: LocalEngine) -> list[int]:
    return [worker.process.pid for worker in engine._workers]


def wait_for(what: Callable[[], Any], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """What each run below a folder computed, by the run's name."""
    return {
        path.parent.name: {name: (path.parent / name).read_bytes() for name in SAME if (path.parent / name).exists()}
        | {"metrics": json.dumps(json.loads(path.read_text())["metrics"]).encode()}
        for path in folder.glob("*/result.json")
    }


def test_runs_of_one_process_are_those_of_processes_of_their_own_in_any_order(
    job: Callable[..., dict[str, Any]], engine: Callable[..., Any], real_smp: Smp, tmp_path: Path
) -> None:
    for method in METHODS:
        flags = []
        for key, value in job("", method)["settings"].items():
            flags += ["--set", f"{key}={value}"] if key not in ("task", "method") else [f"--{key}", value]
        real_smp("prune", *flags, "--output", tmp_path / "plain", "--quiet").ok()
    plain = contents(tmp_path / "plain")
    assert len(plain) == len(METHODS) and all("predictions.jsonl" in files for files in plain.values())
    for place, order in (("forth", METHODS), ("back", METHODS[::-1])):
        pool = engine()
        for method in order:
            pool.start(method, job(method, method, tmp_path / place))
            (worker,) = processes(pool)
            assert outcomes(pool, 1) == {method: Outcome(0, "")}
            # The next run is this process's, too.
            assert processes(pool) == [worker]
        assert contents(tmp_path / place) == plain


def test_nothing_of_a_run_stays_in_memory(job: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    import torch

    def held() -> int:
        return sum(issubclass(type(thing), torch.nn.Module) for thing in gc.get_objects())

    assert make_run(job("a")) == (0, "")
    tidy()
    before = held()
    for seed in (1, 2):
        assert make_run(job("b", seed=seed)) == (0, "")
        tidy()
    assert held() == before


def test_a_run_that_fails_costs_its_process_and_no_other_run(
    job: Callable[..., dict[str, Any]], engine: Callable[..., Any]
) -> None:
    pool = engine(workers=2)
    pool.start("long", job("long", max_steps=10_000))
    pool.start("bad", job("bad", model="no/such/folder/at/all"))
    long, bad = processes(pool)
    (outcome,) = outcomes(pool, 1).values()
    assert outcome.code == 2 and "no/such/folder" in outcome.message and not outcome.message.startswith("error")
    assert processes(pool) == [long]
    pool.start("good", job("good"))
    assert bad not in processes(pool)
    # Its share of the machine is that of the one before.
    assert [worker.slot for worker in pool._workers] == [0, 1]
    assert outcomes(pool, 1) == {"good": Outcome(0, "")}


def test_one_that_is_killed_fails_its_own_run_and_one_that_died_idle_none(
    job: Callable[..., dict[str, Any]], engine: Callable[..., Any], tmp_path: Path
) -> None:
    pool = engine()
    pool.start("first", job("first"))
    assert outcomes(pool, 1) == {"first": Outcome(0, "")}
    (idle,) = processes(pool)
    os.kill(idle, signal.SIGKILL)
    # Its parent is still to ask for it.
    os.waitid(os.P_PID, idle, os.WEXITED | os.WNOWAIT)
    assert pool.ended() == {}
    pool.start("second", job("second", seed=1, max_steps=10_000))
    (busy,) = processes(pool)
    assert busy != idle
    wait_for(lambda: list((tmp_path / "made").glob("*seed1*/metrics.jsonl")))
    os.kill(busy, signal.SIGKILL)
    (outcome,) = outcomes(pool, 1).values()
    assert outcome.code == 128 + 9 and "SIGKILL" in outcome.message and "out of memory" in outcome.message
    pool.start("third", job("third", seed=2))
    assert outcomes(pool, 1) == {"third": Outcome(0, "")}


def test_the_end_ends_all_of_them_with_a_checkpoint(
    job: Callable[..., dict[str, Any]], engine: Callable[..., Any], tmp_path: Path
) -> None:
    pool = engine(workers=2)
    pool.start("short", job("short"))
    outcomes(pool, 1)
    # The second run of its process.
    pool.start("long", job("long", seed=3, max_steps=10_000))
    pool.start("other", job("other", seed=4, max_steps=10_000))
    wait_for(lambda: len(list((tmp_path / "made").glob("*seed[34]*/metrics.jsonl"))) == 2)
    running = processes(pool)
    pool.stop()
    assert processes(pool) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in running)
    assert len(list((tmp_path / "made").glob("*seed[34]*/checkpoint/index.json"))) == 2


def test_a_process_keeps_to_a_device_and_a_plain_one_to_a_run(
    job: Callable[..., dict[str, Any]], engine: Callable[..., Any], tmp_path: Path
) -> None:
    pool, plain = engine(), engine(LocalEngine)
    seen: dict[str, list[int]] = {"pool": [], "plain": []}
    for seed, device in enumerate(("cpu", "cpu", "auto")):
        for name, one in (("pool", pool), ("plain", plain)):
            one.start(name, job(name, "dense", tmp_path / name, seed=seed, device=device, max_steps=1))
            seen[name] += processes(one)
            assert outcomes(one, 1) == {name: Outcome(0, "")}
    assert plain._workers == []
    first, second, third = seen["pool"]
    assert first == second != third
    assert len(set(seen["plain"])) == 3


def test_what_a_library_prints_is_no_answer() -> None:
    program = (
        "import os\n"
        "from smpcli.sweeping import worker\n"
        "def run(job):\n"
        "    print('hello', flush=True)\n"
        "    os.write(1, b'hello')\n"
        "    return job['code'], 'what was wrong'\n"
        "worker.make_run = run\n"
        "worker.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    try:
        process.stdin.write(b"".join(json.dumps({"code": code}).encode() + b"\n" for code in (0, 0, 5, 0)))
        process.stdin.flush()
        # Two answers; the third run's end is the process's, and nobody makes the fourth.
        assert process.wait(60) == 5
        assert process.stdout.read() == b"\n\n"
        assert process.stderr.read() == b"what was wrong\n"
    finally:
        process.kill()
