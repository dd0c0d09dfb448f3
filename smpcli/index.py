"""The package index, asked through whatever installs packages here, so that its address and credentials are known.

That is pip where this Python has it, and uv where it made the environment or pip isn't there; with neither, the pip
that Python brings along, in an environment of its own that is thrown away.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from smpcli.errors import UserError, one_line

SECONDS = 600
_HASH_DIFFERS = ("DO NOT MATCH THE HASHES", "Hash mismatch")  # pip's words, and uv's


class NoInstallerError(UserError):
    """Neither pip nor uv is here, and this Python brings no pip along."""


class HashError(UserError):
    """The index offers another file under that name than the one wanted."""


class NoAnswerError(UserError):
    """The index doesn't answer, or hasn't got what is wanted."""


@dataclass(frozen=True)
class Installer:
    """name: "pip" or "uv"; command: what its sub-commands are given to."""

    name: str
    command: tuple[str, ...]


@contextmanager
def installer() -> Iterator[Installer]:
    """What installs packages here. Raises `NoInstallerError`."""
    uv = _uv()
    if uv is not None and (_made_by_uv() or not _has_pip()):
        yield Installer("uv", (uv, "pip"))
    elif _has_pip():
        yield Installer("pip", (sys.executable, "-m", "pip"))
    else:
        with tempfile.TemporaryDirectory(prefix="smp-pip-") as folder:
            yield Installer("pip", (_brought_along(Path(folder)), "-m", "pip"))


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _uv() -> str | None:
    # `uv run` names itself; an environment that isn't activated may still hold it.
    beside = str(Path(sys.executable).parent)
    return os.environ.get("UV") or shutil.which("uv") or shutil.which("uv", path=beside)


def _made_by_uv() -> bool:
    try:
        lines = (Path(sys.prefix) / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.partition("=")[0].strip() == "uv" for line in lines)


def _brought_along(folder: Path) -> str:
    """The Python of a new environment with pip, set up as this environment is."""
    try:
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    except (OSError, subprocess.CalledProcessError, ImportError):
        raise NoInstallerError(
            "no installer is here: neither pip nor uv, nor a Python that brings pip along", "install pip or uv"
        ) from None
    for name in ("pip.conf", "pip.ini"):
        with suppress(OSError):
            shutil.copyfile(Path(sys.prefix) / name, folder / name)
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def fetch_source(requirement: str, sha256: str, folder: Path, build_constraint: str) -> Path:
    """The source of "package==version": its archive in `folder` (pip), or a folder of what was in it (uv).

    The installer itself checks the archive's sha256 before it opens it. build_constraint: of what reading it takes.
    Raises `NoInstallerError`, `HashError`, `NoAnswerError`.
    """
    package = requirement.partition("==")[0]
    wanted, build = folder / "wanted.txt", folder / "build.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    build.write_text(build_constraint + "\n", encoding="utf-8")
    # The archive, not the wheel; only of this package, since what reading it takes may come as a wheel.
    options = ["--no-deps", "--no-binary", package, "--require-hashes", "--requirement", str(wanted)]
    with installer() as found:
        if found.name == "uv":
            # uv downloads nothing alone: it builds the package, into a cache of its own that holds what was unpacked.
            cache = folder / "cache"
            command = ["install", "--python", sys.executable, "--target", str(folder / "built"), *options]
            _run(found, [*command, "--build-constraints", str(build), "--cache-dir", str(cache)], _uv_variables())
            sources = [path.parent for path in sorted(cache.glob("sdists-*/**/src/PKG-INFO"))]
        else:
            # pip before 25.3 passes PIP_CONSTRAINT on to the build, later ones have a variable of its own for that;
            # pip splits it at spaces, so that it must be a name in the folder where pip runs.
            constraints = f"{os.environ.get('PIP_CONSTRAINT', '')} {build.name}".strip()
            variables = {**os.environ, "PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": build.name}
            command = ["download", "--no-input", "--disable-pip-version-check", "--dest", str(folder), *options]
            _run(found, command, variables, folder)
            sources = sorted(folder.glob(f"{requirement.replace('==', '-')}.*"))
    if not sources:
        raise NoAnswerError(f"{found.name} fetched {requirement} and left no source")
    return sources[0]


def _uv_variables() -> dict[str, str]:
    # Without a cache there would be nothing left to look into.
    return {key: value for key, value in os.environ.items() if key != "UV_NO_CACHE"}


def ask(package: str, seconds: int) -> str:
    """Ask the index for a package, waiting about `seconds` for each answer; returns the name of the one who asked.

    Raises `NoInstallerError`, `NoAnswerError`.
    """
    with installer() as found, tempfile.TemporaryDirectory(prefix="smp-index-") as name:
        if found.name == "uv":
            wanted = Path(name) / "wanted.txt"
            wanted.write_text(package + "\n", encoding="utf-8")
            brief = {**os.environ, "UV_HTTP_TIMEOUT": str(seconds), "UV_HTTP_RETRIES": "0"}
            command = ["compile", str(wanted), "--no-deps", "--no-cache", "--quiet", "--python", sys.executable]
            _run(found, command, brief, timeout=6 * seconds)
        else:
            command = ["index", "versions", package, "--timeout", str(seconds), "--retries", "0", "--no-input"]
            _run(found, [*command, "--disable-pip-version-check"], os.environ, timeout=6 * seconds)
    return found.name


def _run(
    found: Installer,
    arguments: list[str],
    variables: Mapping[str, str],
    folder: Path | None = None,
    timeout: float = SECONDS,
) -> None:
    """Where it fails, its error line as the right kind of `UserError`. folder: uv reads settings where it runs."""
    try:
        done = subprocess.run(
            [*found.command, *arguments],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{found.name} got no answer in {timeout:.0f} s") from None
    except OSError as error:
        raise NoInstallerError(f"can't run {found.command[0]}: {error.strerror}", "install pip or uv") from None
    if done.returncode == 0:
        return
    output = done.stderr + done.stdout
    if any(words in output for words in _HASH_DIFFERS):
        raise HashError("the index offers another file under that name, and it was refused")
    raise NoAnswerError(f"{found.name}: {_reason(output)}")


def _reason(output: str) -> str:
    """pip's last error, or uv's first with the cause below all others."""
    lines = [line.strip() for line in output.splitlines()]
    errors = [line.partition(":")[2] for line in lines if line.lower().startswith("error:")]
    causes = [line.partition(":")[2] for line in lines if line.startswith(("cause:", "Caused by:"))]
    broken = ["connection broken" for line in lines if "connection broken" in line]
    said = [*(errors[:1] + causes[-1:] if causes else broken[:1] + errors[-1:])] or [output.strip()[-150:]]
    return one_line("; ".join(part.strip() for part in said) or "no output", 150)
