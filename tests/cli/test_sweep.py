"""`smp sweep` from outside: real processes, a real Ray, runs that are killed, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import Smp, listing

ROOT = Path(__file__).parents[2]
# A method whose first run dies as if the machine had no memory left; the next one finds the mark that it left.
DIES_ONCE = """
import os, signal
from pathlib import Path
from pruners import Pruner

class DiesOnce(Pruner):
    '''Is killed the first time.'''
    name, title, trains_weights = "dies-once", "Dies once", True

    def density(self, progress, final):
        mark = Path(os.environ["MARK"])
        if progress > 0.5 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().density(progress, final)
"""


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes that know the method above."""
    folder = tmp_path_factory.mktemp("dies")
    (folder / "dies_once.py").write_text(DIES_ONCE)
    info = folder / "dies_once-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dies-once\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[smp.pruners]\ndies-once = dies_once:DiesOnce\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "MARK": str(folder / "mark")}


@pytest.fixture(scope="module")
def grid(pico: Callable[[str], Path], sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of each of three methods, one of which is killed at first."""
    content = {
        "methods": ["dense", "dies-once", "smp"],
        "sparsities": [0.5],
        "tasks": [str(sentiment.words)],
        "settings": {"model": str(pico("bert")), "max_steps": 6, "batch_size": 8, "max_length": 24, "evaluations": 2},
    }
    file = tmp_path_factory.mktemp("grid") / "grid.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture(scope="module")
def local(real_smp: Smp, grid: Path, surroundings: dict[str, str]) -> Path:
    """The grid's results, made in two goes; what both left and said is tested here."""
    output = grid.parent / "local"
    first = real_smp("sweep", grid, "--output", output, "--workers", "2", "--json", env=surroundings)
    assert first.code == 3
    found = {run["method"]: run for run in json.loads(first.out)}
    assert {name: (run["state"], run["exit_code"]) for name, run in found.items()} == {
        "dense": ("finished", 0),
        "dies-once": ("failed", 128 + signal.SIGKILL),
        "smp": ("finished", 0),
    }
    (line,) = first.err.splitlines()
    assert line.startswith("error: ") and found["dies-once"]["id"] in line and "137" in line and "SIGKILL" in line

    finished = {name: Path(found[name]["path"]) for name in ("dense", "smp")}
    before = {name: listing(path) for name, path in finished.items()}
    again = real_smp("sweep", grid, "--output", output, env=surroundings).ok()
    assert {name: listing(path) for name, path in finished.items()} == before
    assert "3 finished (2 before)" in again.out
    (started, ended) = again.err.splitlines()
    assert started == f"{found['dies-once']['id']}  started" and ended.startswith(
        f"{found['dies-once']['id']}  finished"
    )
    return output


def test_a_killed_run_fails_alone_and_the_same_command_makes_it(
    smp: Smp, grid: Path, local: Path, surroundings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The third time nothing is left to do.
    monkeypatch.syspath_prepend(surroundings["PYTHONPATH"].split(os.pathsep)[0])
    nothing = smp("sweep", grid, "--output", local, "--quiet").ok()
    assert nothing.err == ""
    assert sorted(nothing.out.splitlines()) == sorted(str(path.parent) for path in local.glob("*/result.json"))
    assert len(nothing.out.splitlines()) == 3
    # Each is a run like any other: a command that repeats it stands in its result.
    for file in local.glob("*/result.json"):
        assert json.loads(file.read_text())["run"]["command"] == "smp prune --recipe settings.yaml"


def test_ray_gives_the_same_results_and_restarts_what_is_killed(
    real_smp: Smp, grid: Path, local: Path, surroundings: dict[str, str], tmp_path: Path
) -> None:
    env = surroundings | {"MARK": str(tmp_path / "mark")}
    done = real_smp(
        "sweep", grid, "--engine", "ray", "--workers", "2", "--output", tmp_path / "ray", "--json", env=env
    )
    found = {run["id"]: run for run in done.json}
    assert (tmp_path / "mark").exists()
    assert {run["state"] for run in found.values()} == {"finished"}
    assert found.keys() == {path.parent.name for path in local.glob("*/result.json")}
    for name, run in found.items():
        for file in ("mask.safetensors", "weights.safetensors", "predictions.jsonl", "settings.yaml"):
            mine, theirs = tmp_path / "ray" / name / file, local / name / file
            assert mine.exists() == theirs.exists()
            assert not mine.exists() or mine.read_bytes() == theirs.read_bytes()
        assert run["metrics"] == json.loads((local / name / "result.json").read_text())["metrics"]


def test_ctrl_c_leaves_finished_runs_and_no_process(
    environment: dict[str, str], grid: Path, surroundings: dict[str, str], tmp_path: Path
) -> None:
    content = yaml.safe_load(grid.read_text())
    content["methods"] = ["smp", {"method": "dense", "max_steps": 1_000_000}]
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(content))
    # A word in the workers' environment by which they are found.
    env = environment | surroundings | {"SWEEP_UNDER_TEST": str(tmp_path)}
    command = [sys.executable, "-m", "smpcli", "sweep", str(tmp_path / "long.yaml"), "--output", "results"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background has its Ctrl-C ignored, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(lambda: list(tmp_path.glob("results/*-dense-*/settings.yaml")))
        assert len(workers(tmp_path)) == 2
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "same command" in said.splitlines()[-1]
    wait_for(lambda: not workers(tmp_path))
    (finished,) = tmp_path.glob("results/*/result.json")
    assert "-smp-" in finished.parent.name


def test_a_worker_ends_with_its_sweep_however_that_ends(
    environment: dict[str, str], grid: Path, surroundings: dict[str, str], tmp_path: Path
) -> None:
    job = {"settings": yaml.safe_load(grid.read_text())["settings"], "output": str(tmp_path), "id": "fresh"}
    job["settings"] |= {
        "task": yaml.safe_load(grid.read_text())["tasks"][0],
        "max_steps": 1_000_000,
        "checkpoint_every": 20,
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", "smpcli.sweeping.worker"], env=environment | surroundings, stdin=subprocess.PIPE
    )
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(job).encode() + b"\n")
    worker.stdin.flush()
    try:
        wait_for(lambda: list(tmp_path.glob("*/checkpoint/index.json")))
        # What the kernel does when the sweep is killed.
        worker.stdin.close()
        assert worker.wait(timeout=60) == 143
    finally:
        worker.kill()
    assert not list(tmp_path.glob("*/result.json"))


def wait_for(what: Callable[[], Any], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def workers(mark: Path) -> list[int]:
    """Processes that a sweep of this test started, itself included."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if f"SWEEP_UNDER_TEST={mark}".encode() in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["quik"], "did you mean 'quick'"),
        (["quick", "--engine", "slurm"], "ray"),
        (["quick", "--address", "10.0.0.1:6379"], "--engine ray"),
        (["quick", "--engine", "ray", "--address", "nowhere"], "host:port"),
        (["quick", "--workers", "0"], "--workers"),
        (["quick", "--calibrate"], "--dry-run"),
        (["quick", "--set", "seed=3"], "seeds"),
        (["no-such-file.yaml"], "no-such-file.yaml"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_begins(
    smp: Smp, flags: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = smp("sweep", *flags)
    assert done.code == 2 and done.out == ""
    (line,) = done.err.splitlines()
    assert line.startswith("error: ") and says in line and len(line) <= 307
    assert not list(tmp_path.iterdir())


def test_ray_without_ray_says_how_to_get_it(smp: Smp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smpcli.sweeping.engines.find_spec", lambda name: None)
    done = smp("sweep", "quick", "--engine", "ray")
    assert done.code == 2 and "pip install 'smp-prune[ray]'" in done.err


def test_a_dry_run_lists_the_runs_and_makes_none(smp: Smp, grid: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(grid.read_text())
    content["methods"] = ["dense", "smp"]
    (tmp_path / "dry.yaml").write_text(yaml.safe_dump(content))
    found = smp("sweep", tmp_path / "dry.yaml", "--output", tmp_path / "results", "--dry-run", "--json").json
    assert [(run["method"], run["state"], run["steps"]) for run in found["runs"]] == [
        ("dense", "waiting", 6),
        ("smp", "waiting", 6),
    ]
    assert found["estimated_seconds"] is None
    shown = smp("sweep", tmp_path / "dry.yaml", "--output", tmp_path / "results", "--dry-run").ok()
    assert "unknown" in shown.out and "--calibrate" in shown.out and "2 waiting" in shown.out
    assert not (tmp_path / "results").exists()


def test_without_a_name_the_sweeps_are_listed(smp: Smp) -> None:
    assert {"quick", "paper-figure", "glue"} <= {entry["name"] for entry in smp("sweep", "--json").json}
    assert "paper-figure" in smp("sweep").ok().out
