"""Helpers of these tests: the command line in this process (fast) or in one of its own (true), and what it leaves."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import safe_open

from smpcli.main import app
from smpcli.reporting import guarded

# A run that trains, prunes and evaluates twice, in a fraction of a second.
SHORT = ["--max-steps", "6", "--batch-size", "8", "--set", "max_length=24", "--set", "evaluations=2"]
# Pico BERT: in each of its 2 blocks 4 matrices of 32 x 32 and two of 32 x 48.
PRUNABLE = 2 * (4 * 32 * 32 + 2 * 32 * 48)


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def ok(self) -> Done:
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self

    @property
    def json(self) -> Any:
        return json.loads(self.ok().out)


class Smp(Protocol):
    """A way to call `smp`; cwd and env are for one that is a process of its own."""

    def __call__(self, *args: object, cwd: Path = ..., env: dict[str, str] | None = ...) -> Done: ...


def run_in_process(*args: object) -> int:
    """What `main` does, without leaving the process."""
    return guarded(lambda: app(args=[str(arg) for arg in args], standalone_mode=False))


def run_process(command: Sequence[object], cwd: Path, environment: dict[str, str]) -> Done:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def printed(*args: object) -> str:
    """Run a command that succeeds, and return what it prints; for fixtures of more than one test."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run_in_process(*args) == 0
    return out.getvalue()


def make_run(*args: object) -> Path:
    """Run a command that makes a run, and return the run's folder."""
    return Path(printed(*args, "--quiet").strip())


def listing(folder: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of change of all that is below a folder."""
    return sorted(
        (str(path.relative_to(folder)), path.lstat().st_size if path.is_file() else 0, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    )


def result_of(run: Path) -> Any:
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def packed_masks(path: Path) -> dict[str, np.ndarray]:
    """Masks as docs/result-schema.md and docs/exports.md describe the files, read without smp."""
    masks = {}
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["smp"])
        for name, shape in about["shapes"].items():
            code, payload = about.get("codes", {}).get(name, "packed"), file.get_tensor(name)
            if code == "packed":
                masks[name] = np.unpackbits(payload)[: int(np.prod(shape))].reshape(shape).astype(bool)
                continue
            # At a tenth of the weights, gaps between kept ones are what is short.
            assert code in ("gaps", "gaps-columns")
            flat, place = np.zeros(int(np.prod(shape)), bool), 0
            for gap in zlib.decompressobj().decompress(payload.tobytes()):
                assert gap < 255
                flat[place + gap] = True
                place += gap + 1
            masks[name] = flat.reshape(shape[::-1]).T if code.endswith("columns") else flat.reshape(shape)
    return masks
