"""Fuzz every reader: no crash, no input that takes a second, no 200 MB of memory, always an error of our own.

    python tests/fuzz/fuzz.py --runs 100000                      mutations of good files, guided by what is answered
    python tests/fuzz/fuzz.py --runs 100000 --engine atheris     guided by coverage (pip install 'smp-prune[fuzz]')

What fails is written to tests/fuzz/found/READER-…, and named. Times are the process's own, so that a busy machine
makes no slow input.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))

SECONDS, MEGABYTES = 1.0, 200
# Of addresses, beyond what is there at the start: libraries are yet to be loaded.
SPACE = 2**33
# As torch, numpy and C++ say it. ("allocation" is a setting.)
OUT_OF_MEMORY = re.compile(r"bad.alloc|allocat(e|ing)\b", re.IGNORECASE)
FOUND = Path(__file__).resolve().parent / "found"


# A file a thousandth of a second: not on a disk, where there is another place.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class TooSlow(BaseException):
    pass


def _too_slow(number: int, frame: object) -> None:
    raise TooSlow


def peak() -> float:
    """The most memory that this process has had, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limit_memory() -> None:
    """So that an input that takes all memory is found without taking it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 2**22
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + SPACE, most))


def _packages_asked_once() -> contextlib.AbstractContextManager[object]:
    """Installed packages are asked for methods with each recipe; within this they are asked once."""
    return mock.patch("importlib.metadata.entry_points", functools.cache(entry_points))


def fuzz(name: str, runs: int, seed: int) -> tuple[str, list[str]]:
    """A line of figures, and what went wrong."""
    from mutation import Corpus
    from readers import READERS, Attempt

    reader = READERS[name]
    corpus = Corpus(reader.seeds(), random.Random(f"{seed} {name}"))
    problems: dict[str, str] = {}
    refused, slowest = 0, 0.0
    signal.signal(signal.SIGVTALRM, _too_slow)
    with _packages_asked_once(), tempfile.TemporaryDirectory(prefix="smp-fuzz-", dir=MEMORY) as folder:
        attempt = Attempt(reader, Path(folder))
        for data in corpus.files:
            error = attempt(data)
            assert not isinstance(error, Exception), f"a good file is refused: {error}"
        memory = peak()
        for _ in range(runs):
            data = corpus.next()
            started = time.process_time()
            signal.setitimer(signal.ITIMER_VIRTUAL, 5)
            try:
                outcome: object = attempt(data)
                corpus.learn(data, outcome)
                refused += isinstance(outcome, Exception)
                if isinstance(outcome, Exception) and OUT_OF_MEMORY.search(str(outcome)):
                    _keep(problems, name, data, f"memory: {str(outcome)[-120:]}")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                place = traceback.extract_tb(error.__traceback__)[-1]
                _keep(
                    problems, name, data, f"{type(error).__name__} at {place.name}:{place.lineno}: {str(error)[:120]}"
                )
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            took = time.process_time() - started
            slowest = max(slowest, took)
            if took > SECONDS:
                _keep(problems, name, data, f"took {took:.1f} s")
            if peak() - memory > MEGABYTES:
                _keep(problems, name, data, f"{peak() - memory:.0f} MB")
                memory = peak()
        grown = peak() - memory
    line = (
        f"{name}: {runs:,} inputs, {refused:,} refused, {len(corpus.seen)} different answers, "
        f"slowest {slowest:.3f} s, {grown:.0f} MB more, {len(problems)} problems"
    )
    return line, [f"{name}: {problem} ({file})" for problem, file in problems.items()]


def _keep(problems: dict[str, str], name: str, data: bytes, problem: str) -> None:
    if problem in problems:
        return
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    problems[problem] = str(path)


def with_atheris(name: str, runs: int, seed: int) -> int:
    """In this process, which libFuzzer ends; the corpus begins with the good files."""
    import atheris

    with atheris.instrument_imports(include=["smpcli", "yaml", "readers"]):
        from readers import READERS, Attempt

        import smpcli.comparison.compare
        import smpcli.files
        import smpcli.tasks.data  # noqa: F401

    reader = READERS[name]
    _packages_asked_once().__enter__()  # atheris ends the process
    folder = Path(tempfile.mkdtemp(prefix="smp-fuzz-", dir=MEMORY))
    (folder / "corpus").mkdir()
    for index, data in enumerate(reader.seeds()):
        (folder / "corpus" / str(index)).write_bytes(data)
    attempt = Attempt(reader, folder / "in")
    FOUND.mkdir(exist_ok=True)

    def one(data: bytes) -> None:
        started = time.process_time()
        attempt(data)
        if time.process_time() - started > SECONDS:
            raise TooSlow

    options = [
        f"-runs={runs}",
        f"-seed={seed + 1}",
        "-max_len=8192",
        f"-rss_limit_mb={int(peak()) + 600}",
        "-timeout=60",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={FOUND}/{name}-", str(folder / "corpus")], one)
    atheris.Fuzz()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=100_000, help="inputs a reader")
    parser.add_argument("--readers", nargs="+", default=[])
    parser.add_argument("--engine", choices=["mutation", "atheris"], default="mutation")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    from smpcli.console import quieten_libraries

    quieten_libraries()
    from readers import READERS
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    limit_memory()
    names = arguments.readers or list(READERS)
    if arguments.engine == "atheris" and len(names) == 1:
        return with_atheris(names[0], arguments.runs, arguments.seed)
    failed = False
    for name in names:
        if arguments.engine == "atheris":
            command: list[Any] = [sys.executable, __file__, "--engine", "atheris", "--readers", name]
            command += ["--runs", str(arguments.runs), "--seed", str(arguments.seed)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            last = [line for line in done.stderr.splitlines() if "cov:" in line or line.startswith(("Done", "=="))]
            print(f"{name}: exit {done.returncode}; {' | '.join(last[-2:])}", flush=True)
            failed |= bool(done.returncode)
            continue
        line, problems = fuzz(name, arguments.runs, arguments.seed)
        print("\n".join([line, *problems]), flush=True)
        failed |= bool(problems)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
