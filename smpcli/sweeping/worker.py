"""One run of a sweep in a process of its own: `python -m smpcli.sweeping.worker`, the job as a line on stdin."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from smpcli import console
from smpcli.reporting import guarded


def make_run(job: Mapping[str, Any]) -> tuple[int, str]:
    """Make a run: its exit code as `smp prune` would give it, and the message of its error."""
    said = [""]
    with redirect_stderr(io.StringIO()):
        code = guarded(lambda: _prune(job), lambda problem, remedy: said.append(console.error_line(problem, remedy)))
    return code, said[-1]


def _prune(job: Mapping[str, Any]) -> None:
    from smpcli.settings import resolve
    from smpcli.training.run import run

    # A run that was interrupted goes on; a sweep's other unfinished runs aren't a mistake.
    begun = (Path(job["output"]) / job["id"]).is_dir()
    run(resolve(flags=job["settings"]), Path(job["output"]), resume=begun)


def _end_with_parent() -> None:
    """The sweep holds the other end of stdin: where it ends, however it ended, there is nobody left to work for."""
    sys.stdin.buffer.read()
    # Training writes a checkpoint first; nothing else has anything to save.
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    console.quieten_libraries()
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code, message = make_run(job)
    if message:
        console.talk(message)
    # The thread above still reads stdin, which a normal end would wait for.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
