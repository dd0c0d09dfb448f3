"""CUDA's multi-process service (MPS): processes that share a GPU compute at the same time, not in turns.

`python -m smpcli.sweeping.cuda_service` keeps a control daemon with folders of its own. It prints their place on
stdout, or on stderr why there is no daemon, and ends it when stdin ends, however the sweep at the other end did.
No setting of a machine or of a device is changed, and no other daemon is spoken to. https://docs.nvidia.com/deploy/mps/
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from smpcli.errors import UserError, one_line

CONTROL = "nvidia-cuda-mps-control"
# Of one device, from Volta on.
MOST_CLIENTS = 48
# That it may take to start, to answer, or to end.
SECONDS = 20


class Service:
    """A daemon that runs until `stop`, or until this process ends. devices: of CUDA_VISIBLE_DEVICES.

    Raises UserError where it doesn't run; the reason is a line.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "smpcli.sweeping.cuda_service"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(devices)},
            text=True,
            # Ctrl-C in a terminal must not reach it before the workers have ended.
            start_new_session=True,
        )
        assert self._keeper.stdout is not None
        self.folder = self._keeper.stdout.readline().strip()
        if not self.folder:
            _, said = self._keeper.communicate()
            raise UserError(one_line(said.strip().splitlines()[-1] if said.strip() else "it ended at once", 150))
        self._devices = list(devices)

    def variables(self, device: str) -> dict[str, str]:
        """What a process that computes on one of the devices needs in its environment."""
        # The service numbers its devices anew; identifiers stay.
        shown = str(self._devices.index(device)) if device.isdecimal() else device
        return {"CUDA_VISIBLE_DEVICES": shown, **_variables(Path(self.folder))}

    def stop(self) -> None:
        """End the daemon; its clients have ended."""
        self._keeper.communicate()


def worthwhile(workers: int, devices: Sequence[str]) -> bool:
    """Whether several workers share a device, the service is installed, and none is the person's own."""
    sharing = -(-workers // len(devices)) if devices else 0
    return (
        1 < sharing <= MOST_CLIENTS
        and shutil.which(CONTROL) is not None
        and "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    )


def _variables(folder: Path) -> dict[str, str]:
    return {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}


def keep() -> str:
    """Keep a daemon until stdin ends; the reason where there is none."""
    with tempfile.TemporaryDirectory(prefix="smp-mps-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        surroundings = {**os.environ, **_variables(folder)}
        for part in _variables(folder).values():
            Path(part).mkdir()
        try:
            if reason := _start(surroundings, folder / "said"):
                return reason
            sys.stdout.write(f"{folder}\n")
            sys.stdout.flush()
            sys.stdin.read()
            return ""
        finally:
            _end(surroundings)


def _start(surroundings: Mapping[str, str], said: Path) -> str:
    """Start a daemon and try it with a process; why that can't compute, empty where it can."""
    with said.open("wb") as file:
        # It goes into the background when it is ready. A pipe would stay open as long as it lives.
        code = _run([CONTROL, "-d"], surroundings, stdout=file, stderr=file)[0]
    if code != 0:
        text = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{CONTROL} {_ended(code)}" + (f": {text[-1]}" if text else "")
    # A server that runs and takes no clients would have every run fail. The first client starts it.
    trial = [sys.executable, "-c", "from smpcli.sweeping.cuda_service import trial; raise SystemExit(trial())"]
    if (code := _run(trial, surroundings)[0]) != 0:
        return f"a process that tried it {_ended(code)}"
    return "" if _ask("get_server_list", surroundings)[1].strip() else "it started no server for a process"


def _end(surroundings: Mapping[str, str]) -> None:
    """End the daemon, by force where it doesn't obey."""
    place = Path(surroundings["CUDA_MPS_PIPE_DIRECTORY"]) / f"{CONTROL}.pid"
    code, _ = _ask("quit", surroundings)
    with suppress(OSError, ValueError):
        if code != 0:
            os.kill(int(place.read_text()), signal.SIGKILL)


def trial() -> int:
    """Take the first device as a client does: CUDA's error, 0 for none. Without a driver there is nothing to try."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    context = ctypes.c_void_p()
    return int(cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))


def _ask(command: str, surroundings: Mapping[str, str]) -> tuple[int | None, str]:
    """Our daemon's exit code and answer."""
    return _run([CONTROL], surroundings, f"{command}\n", stdout=subprocess.PIPE)


def _run(command: list[str], surroundings: Mapping[str, str], text: str = "", **files: Any) -> tuple[int | None, str]:
    """A command's exit code, None where it took too long or can't be run, and what it printed into a pipe."""
    files = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | files
    try:
        done = subprocess.run(
            command, input=text, env=dict(surroundings), text=True, timeout=SECONDS, check=False, **files
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return done.returncode, done.stdout or ""


def _ended(code: int | None) -> str:
    return f"gave no answer in {SECONDS} s" if code is None else f"ended with {code}"


def main() -> None:
    sys.exit(keep() or 0)


if __name__ == "__main__":
    main()
