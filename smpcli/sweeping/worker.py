"""A process that makes runs of a sweep: `python -m smpcli.sweeping.worker`.

A line of JSON on stdin is a run, an empty line on stdout says that it is finished. One that fails ends the process,
with its exit code and its message on stderr.
"""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from queue import SimpleQueue
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


def _listen(jobs: SimpleQueue[bytes]) -> None:
    """The sweep holds the other end of stdin: where it ends, however it ended, there is nobody left to work for."""
    for line in sys.stdin.buffer:
        jobs.put(line)
    # Training writes a checkpoint first; nothing else has anything to save.
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    console.quieten_libraries()
    # Whatever a library prints is no answer.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    jobs: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=[jobs], daemon=True).start()
    while True:
        code, message = make_run(json.loads(jobs.get()))
        if code != 0:
            # What a failed run left behind (a device in error, memory) is no start for another.
            if message:
                console.talk(message)
            sys.stderr.flush()
            # The thread above still reads stdin, which a normal end would wait for.
            os._exit(code)
        tidy()
        os.write(answers, b"\n")


def tidy() -> None:
    """Leave nothing of a run in memory: models and optimisers lie in circles of references."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
