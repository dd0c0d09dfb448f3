"""Shared by the tests of the command line: ways to call it, and a few finished runs that tests only read."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import SHORT, Done, Smp, make_run, run_in_process, run_process

from smpcli import console

# Libraries read it when they are imported first; `main` does the same.
console.quieten_libraries()


@pytest.fixture
def smp(capsys: pytest.CaptureFixture[str]) -> Smp:
    def call(*args: object, **process: Any) -> Done:
        assert not process, "this one runs in the tests' process"
        capsys.readouterr()
        code = run_in_process(*args)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For processes: no hub, nobody's caches or data, one thread."""
    folder = tmp_path_factory.mktemp("user")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SMP_", "HF_", "PYTHON", "TRANS"))}
    kept.pop("COLUMNS", None)
    return {
        **kept,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "huggingface"),
        "SMP_CACHE_DIR": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def real_smp(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Smp:
    """`smp` as a process of its own in an empty folder, or in `cwd`; `env` adds to its environment."""
    empty = tmp_path_factory.mktemp("elsewhere")

    def call(*args: object, cwd: Path = empty, env: dict[str, str] | None = None) -> Done:
        return run_process([sys.executable, "-m", "smpcli", *args], cwd, environment | (env or {}))

    return call


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reaches for the network fails the test; `pytest.fail` raises what `except Exception` can't swallow."""
    import huggingface_hub.constants

    # Told to be offline, the client wouldn't even try.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def refuse(*args: object, **named: object) -> None:
        pytest.fail(f"something reached for the network: {args[-2:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def on_pico(pico: Callable[[str], Path], sentiment: Any) -> list[str]:
    """The flags of a short run of pico BERT on the generated sentences."""
    return ["--task", str(sentiment.csv), "--model", str(pico("bert")), *SHORT]


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared runs are; tests only read them."""
    return tmp_path_factory.mktemp("shared") / "results"


@pytest.fixture(scope="session")
def finished(on_pico: list[str], results: Path) -> Path:
    """A finished run: smp at a sparsity of 0.9, with prototypes."""
    return make_run("prune", "--method", "smp", "--sparsity", "0.9", *on_pico, "--output", results)


@pytest.fixture(scope="session")
def worded(pico: Callable[[str], Path], sentiment: Any, results: Path) -> Path:
    """A finished run with label words."""
    return make_run("prune", "--task", sentiment.words, "--model", pico("bert-mlm"), *SHORT, "--output", results)


@pytest.fixture(scope="session")
def dense(on_pico: list[str], results: Path) -> Path:
    """A finished dense run."""
    return make_run("finetune", *on_pico, "--output", results)
