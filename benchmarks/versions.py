"""The suite with other versions: of Python, and the lowest and the newest dependencies that pyproject.toml allows.

    python benchmarks/versions.py                                    # what docs/reliability.md shows; hours
    python benchmarks/versions.py --python 3.11 --resolution lowest-direct -- tests/pruners
    python benchmarks/versions.py --lock                             # constraints.txt, made again

Each pair of a Python and a resolution gets a virtual environment in a temporary folder (several GB where torch brings
CUDA), made by uv, which must be installed; it fetches a Python that is not there, where it can. What stands behind
`--` goes to pytest. The table goes to stdout, in Markdown; the exit code is 1 when a pair failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# uv's names: the lowest of what pyproject.toml names, the newest of everything, and the lock.
RESOLUTIONS = ("lowest-direct", "highest", "locked")
#: The torch of README's commands. On the index of some systems it is the last without CUDA's libraries.
TORCH = "torch==2.13.0"
SHOWN = ("torch", "transformers", "numpy")
#: These follow from torch's own pins, and only where torch needs them.
CUDA = ("nvidia-", "cuda-", "triton==")


def lock() -> None:
    """constraints.txt: one set of versions for each supported Python and system, no index or path in it."""
    extras = [word for name in ("test", "dev", "docs") for word in ("--extra", name)]
    options = ["--universal", "--python-version", PYTHONS[0], "--no-annotate", "--no-header", "--upgrade"]
    command = ["uv", "pip", "compile", "pyproject.toml", "-", *extras, *options]
    found = subprocess.run(command, cwd=ROOT, input=TORCH, stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = [line for line in found.splitlines() if not line.startswith(CUDA)]
    head = ["# Versions that were tested together, for README's commands.", "# python benchmarks/versions.py --lock"]
    (ROOT / "constraints.txt").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


def tried(python: str, resolution: str, more: list[str], tests: list[str]) -> tuple[list[str], bool]:
    """A row of the table, and whether the pair holds."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "venv" / ("Scripts" if os.name == "nt" else "bin")
        if subprocess.run(["uv", "venv", "-q", "--python", python, inside.parent], check=False).returncode:
            return [python, resolution, *("—" for _ in SHOWN), "no interpreter"], True
        how = ["-c", "constraints.txt"] if resolution == "locked" else ["--resolution", resolution]
        install = ["uv", "pip", "install", "-q", "--python", str(inside / "python"), *how, "-e", ".[test]", *more]
        if subprocess.run(install, cwd=ROOT, check=False).returncode:
            return [python, resolution, *("—" for _ in SHOWN), "cannot be installed"], False
        asked = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        versions = subprocess.run(
            [inside / "python", "-c", asked, *SHOWN], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        # Programs of the environment, such as smp and ruff, come first.
        path = {"PATH": f"{inside}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(inside.parent)}
        command = [str(inside / "python"), "-m", "pytest", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | path, stdout=subprocess.PIPE, text=True, check=False
        )
        print(done.stdout, file=sys.stderr)
        last = (done.stdout.strip().splitlines() or ["no output"])[-1].strip("= ")
        said = "passed" if done.returncode == 0 else last
        return [python, resolution, *versions, said], done.returncode == 0


def main() -> int:
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", action="store_true", help="make constraints.txt again, and test nothing")
    parser.add_argument("--python", nargs="+", default=PYTHONS)
    parser.add_argument("--resolution", nargs="+", default=RESOLUTIONS, choices=RESOLUTIONS)
    parser.add_argument(
        "--with", nargs="+", default=[], dest="more", help="more requirements, such as a torch for the CPU"
    )
    given = parser.parse_args(words[:cut])
    if given.lock:
        lock()
        return 0
    tests = words[cut + 1 :] or ["-n", "logical", "--dist", "loadfile"]
    good = True
    print("| Python | dependencies |", " | ".join(SHOWN), "| outcome |\n|---|---|" + "---|" * (len(SHOWN) + 1))
    for python in given.python:
        for resolution in given.resolution:
            row, holds = tried(python, resolution, given.more, tests)
            print("|", " | ".join(row), "|", flush=True)
            good = good and holds
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
