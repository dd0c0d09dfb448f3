"""--resume from the command line: what is said, which exit code, and what a copied command does."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import Smp, result_of

LONG = ["--max-steps", "4000", "--batch-size", "8", "--set", "evaluations=1", "--set", "checkpoint_every=0"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_a_process(
    environment: dict[str, str], on_pico: list[str], smp: Smp, tmp_path: Path, number: int, code: int
) -> None:
    command = ["prune", *on_pico, *LONG, "--output", str(tmp_path / "out"), "--seed", "3"]
    # As the suite imports it: installed, or from the checkout.
    env = {**environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    process = subprocess.Popen(
        [sys.executable, "-m", "smpcli", *command], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("step 400/"):
            process.send_signal(number)
            break
    lines += process.stderr.read().splitlines(keepends=True)
    assert process.wait() == code
    assert lines[-2].startswith("error: interrupted after step ") and "a checkpoint is in" in lines[-2]
    assert lines[-1].startswith("to go on: smp prune ") and lines[-1].rstrip().endswith("--resume")
    assert "Traceback" not in "".join(lines)

    # Compared as it is: unfinished. The command that was printed goes on; here with a signal of its own, to be quick.
    assert "unfinished" in json.loads(smp("compare", tmp_path / "out", "--json").out)["problems"][0]["reason"]
    shown = shlex.split(lines[-1].removeprefix("to go on: "))[1:]
    assert shown == [*command, "--resume"]
    process = subprocess.Popen(
        [sys.executable, "-m", "smpcli", *shown], env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    notes = []
    for line in process.stderr:
        notes.append(line)
        if line.startswith("step "):
            break
    process.kill()
    process.wait()
    process.stderr.close()
    assert any(note.startswith("goes on after step ") for note in notes)


def test_sigterm_before_training_is_plain(environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import os, signal, smpcli.main as main\n"
        "main.app = lambda **_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "main.main()"
    )
    env = {**environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "error: terminated; nothing was finished\n")


def test_resume_finishes_returns_and_begins(smp: Smp, on_pico: list[str], finished: Path, tmp_path: Path) -> None:
    command = ["prune", "--method", "smp", "--sparsity", "0.9", *on_pico, "--resume"]
    before = (finished / "result.json").stat().st_mtime_ns
    again = smp(*command, "--output", finished.parent, "--json").json
    assert again["run"]["id"] == finished.name and (finished / "result.json").stat().st_mtime_ns == before
    made = smp(*command, "--output", tmp_path).ok()
    assert "needs up to" in made.err
    (path,) = tmp_path.iterdir()
    assert result_of(path)["metrics"] == result_of(finished)["metrics"]


def test_a_dead_hub_is_found_out_in_seconds(environment: dict[str, str], on_pico: list[str], tmp_path: Path) -> None:
    """The client's own five retries would take half a minute."""
    # Nothing listens on the discard port.
    env = {**environment, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    env["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    code = (
        "import time; sleep, slept = time.sleep, []; time.sleep = slept.append\n"
        "import sys, smpcli.main as main\n"
        "try: main.main()\n"
        "except SystemExit as end: print(end.code, sum(slept))"
    )
    task = on_pico[on_pico.index("--task") + 1]
    for arguments in (["--task", task, "--model", "nobody/none"], ["--task", "sst2", *on_pico[2:4]]):
        done = subprocess.run(
            [sys.executable, "-c", code, "prune", *arguments, "-q"],
            env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout.split() == ["2", "0"], done.stdout + done.stderr
        assert done.stderr.startswith("error: can't load ") and done.stderr.count("\n") == 1
