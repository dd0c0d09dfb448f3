"""CUDA's multi-process service for a sweep's workers, with a stand-in for its daemon: this needs no GPU."""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import Smp

from smpcli.errors import UserError
from smpcli.sweeping import cuda_service
from smpcli.sweeping.cuda_service import CONTROL, Service, worthwhile
from smpcli.sweeping.pool import PoolEngine

ROOT = Path(__file__).parents[2]
# As NVIDIA's: `-d` goes into the background and leaves its process id among its pipes, commands are lines on stdin.
DAEMON = """#!/bin/sh
pipe=$CUDA_MPS_PIPE_DIRECTORY
say() { echo "$* devices=$CUDA_VISIBLE_DEVICES" >> "$NOTES"; }
if [ "$1" = -d ]; then
    say "start $pipe"
    if [ "$FAULT" = start ]; then echo "An instance of this daemon is already running" >&2; exit 1; fi
    sleep 1000 > /dev/null 2>&1 &
    echo $! > "$pipe/nvidia-cuda-mps-control.pid"
    echo $! >> "$NOTES.pids"
    exit 0
fi
read command
say "$command"
case $command in
    get_server_list) if [ "$FAULT" != server ]; then echo 4711; fi ;;
    quit) if [ "$FAULT" = quit ]; then exit 1; fi; kill "$(cat "$pipe/nvidia-cuda-mps-control.pid")" ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-in is told, a line each; FAULT in the environment has it fail."""
    place = tmp_path / "bin" / CONTROL
    place.parent.mkdir()
    place.write_text(DAEMON)
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{place.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    # Where a test fails, the keeper's temporary folder is the test's.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    return tmp_path / "notes"


def told(notes: Path) -> list[str]:
    return notes.read_text().splitlines()


def nothing_is_left(notes: Path) -> bool:
    """No daemon runs, and no folder of one is there."""
    pids = Path(f"{notes}.pids")
    alive = [pid for pid in (pids.read_text().split() if pids.exists() else []) if running(pid)]
    return not alive and not list(notes.parent.glob("smp-mps-*"))


def running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_for(what: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_it_runs_for_its_devices_until_it_is_stopped(notes: Path) -> None:
    service = Service(["2", "5", "GPU-abc"])
    folder = Path(service.folder)
    pipes, logs = folder / "pipe", folder / "log"
    assert pipes.is_dir() and logs.is_dir() and folder.parent == notes.parent
    assert told(notes) == [f"start {pipes} devices=2,5,GPU-abc", "get_server_list devices=2,5,GPU-abc"]
    own = {"CUDA_MPS_PIPE_DIRECTORY": str(pipes), "CUDA_MPS_LOG_DIRECTORY": str(logs)}
    # Its clients see its devices by their number among them, or by their identifier.
    assert service.variables("5") == {"CUDA_VISIBLE_DEVICES": "1", **own}
    assert service.variables("GPU-abc") == {"CUDA_VISIBLE_DEVICES": "GPU-abc", **own}
    assert not nothing_is_left(notes)
    service.stop()
    assert nothing_is_left(notes)
    assert told(notes)[2:] == ["quit devices=2,5,GPU-abc"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("start", f"{CONTROL} ended with 1: An instance of this daemon is already running"),
        ("server", "it started no server for a process"),
    ],
)
def test_one_that_does_not_run_says_why_and_leaves_nothing(
    notes: Path, monkeypatch: pytest.MonkeyPatch, fault: str, says: str
) -> None:
    monkeypatch.setenv("FAULT", fault)
    with pytest.raises(UserError) as error:
        Service(["0"])
    assert str(error.value) == says
    assert nothing_is_left(notes)


def test_one_that_does_not_obey_is_killed(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULT", "quit")
    Service(["0"]).stop()
    assert nothing_is_left(notes)


@pytest.mark.parametrize("code", [0, 805])
def test_it_is_tried_as_a_client_would(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return code

        def cuDevicePrimaryCtxRetain(self, context: Any, device: int) -> int:
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert cuda_service.trial() == code


def test_where_no_process_can_compute_through_it_it_counts_as_not_running(
    notes: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pipe").mkdir()
    surroundings = os.environ | {"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "pipe")}
    run = cuda_service._run

    def fail(command: list[str], surroundings: Mapping[str, str], *rest: Any, **files: Any) -> tuple[int | None, str]:
        return (37, "") if command[0] == sys.executable else run(command, surroundings, *rest, **files)

    monkeypatch.setattr(cuda_service, "_run", fail)
    try:
        assert cuda_service._start(surroundings, tmp_path / "said") == "a process that tried it ended with 37"
    finally:
        cuda_service._end(surroundings)


def test_it_is_for_several_processes_on_a_device(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [worthwhile(workers, ["0", "1"]) for workers in (1, 2, 3, 96, 97)] == [False, False, True, True, False]
    assert not worthwhile(4, [])
    # The person has one that runs already.
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/somewhere")
    assert not worthwhile(16, ["0"])
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY")
    monkeypatch.setenv("PATH", "/nowhere")
    assert not worthwhile(16, ["0"])


def test_workers_get_it_and_runs_on_the_cpu_do_without(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    monkeypatch.setattr("smpcli.sweeping.engines.Worker.begin", lambda worker, name, job: None)
    engine = PoolEngine(3)
    try:
        engine.start("a", {"settings": {"device": "cpu"}})
        before = engine.remark
        assert before is None and not notes.exists()
        engine.start("b", {"settings": {"device": "auto"}})
        assert engine.remark == "3 workers share 2 GPUs through CUDA's multi-process service"
        shares = [engine._share(slot) for slot in range(3)]
        assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0", "1", "0"]
        assert {Path(share["CUDA_MPS_PIPE_DIRECTORY"]).parent.parent for share in shares} == {notes.parent}
    finally:
        engine.stop()
    assert nothing_is_left(notes)


@pytest.fixture
def grid(pico: Callable[[str], Path], sentiment: Any, tmp_path: Path) -> Path:
    content = {
        "methods": ["dense"],
        "seeds": [0, 1],
        "tasks": [str(sentiment.csv)],
        "settings": {"model": str(pico("bert")), "max_steps": 2, "batch_size": 8, "max_length": 24, "evaluations": 1},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "grid.yaml"


def sweep_command(grid: Path, *more: str) -> list[str]:
    return ["sweep", str(grid), "--engine", "pool", "--workers", "2", "--output", str(grid.parent / "results"), *more]


def surroundings(notes: Path, **more: str) -> dict[str, str]:
    kept = ("PATH", "NOTES", "TMPDIR", "PYTHONPATH")
    return {name: os.environ[name] for name in kept} | {"CUDA_VISIBLE_DEVICES": "0"} | more


def test_a_sweep_says_in_a_line_that_it_goes_on_without(real_smp: Smp, grid: Path, notes: Path) -> None:
    done = real_smp(*sweep_command(grid), env=surroundings(notes, FAULT="start")).ok()
    assert "2 finished" in done.out
    (line,) = [line for line in done.err.splitlines() if "multi-process" in line]
    assert line.startswith("workers take turns on a GPU") and line.endswith("already running")
    assert len(told(notes)) == 2 and nothing_is_left(notes)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_sweep_however_that_ends(
    environment: dict[str, str], grid: Path, notes: Path, end: signal.Signals
) -> None:
    content = yaml.safe_load(grid.read_text())
    content["settings"]["max_steps"] = 1_000_000
    grid.write_text(yaml.safe_dump(content))
    process = subprocess.Popen(
        [sys.executable, "-m", "smpcli", *sweep_command(grid, "--quiet")],
        env=environment | surroundings(notes),
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(lambda: notes.exists() and "get_server_list devices=0" in told(notes))
        wait_for(lambda: list(grid.parent.glob("results/*/settings.yaml")))
        process.send_signal(end)
        assert process.wait(60) in (128 + end, -end)
    finally:
        process.kill()
    wait_for(lambda: nothing_is_left(notes))
    assert told(notes)[-1] == "quit devices=0"
