"""What a bug report should say of a machine: versions, devices, caches, and who answers on the network."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from smpcli.errors import UserError, one_line
from smpcli.files import expanded
from smpcli.paths import cache_dir

PACKAGES = (
    "smp-prune torch transformers tokenizers accelerate datasets safetensors numpy pandas scikit-learn typer rich "
    "ray tensorboard wandb trackio mlflow"
).split()
ANSWER_SECONDS = 5


class NotAskedError(Exception):
    """Nothing was asked, for the reason that is the message."""


def examine() -> dict[str, Any]:
    """Everything that `smp doctor` shows, ready for JSON. Nothing in it is secret."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "devices": _devices(),
        "methods": _other_methods(),
        "caches": {"smp": _folder(cache_dir()), "hub": _folder(_hub_cache())},
        "data_dir": _short(Path(os.environ["SMP_DATA_DIR"])) if os.environ.get("SMP_DATA_DIR") else None,
        "network": {"hub": _asked(_ask_hub), "package index": _asked(_ask_index)},
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _devices() -> dict[str, Any]:
    import torch

    from smpcli.device import compute_of, make_accelerator

    compute = compute_of(make_accelerator("auto"), "auto")
    return {
        "run": str(compute),
        "auto": compute.device,
        "precision": compute.precision,
        "processors": os.cpu_count(),
        "threads": compute.threads,
        "cuda": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "mps": torch.backends.mps.is_available(),
    }


def _other_methods() -> dict[str, str]:
    """Methods that other packages brought, each with its package."""
    from pruners.registry import OWN_PACKAGE
    from smpcli.catalogue import list_methods

    return {entry["name"]: entry["package"] for entry in list_methods() if entry["package"] != OWN_PACKAGE}


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _folder(path: Path) -> dict[str, Any]:
    """A cache's place and size; links, which the hub's cache is full of, count once."""
    files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()] if path.is_dir() else []
    return {"path": _short(path), "files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def _short(path: Path) -> str:
    """A path that doesn't tell who its owner is."""
    try:
        return str(Path("~") / expanded(path).absolute().relative_to(Path.home()))
    except ValueError:
        return str(path)


def _asked(ask: Callable[[], str]) -> dict[str, Any]:
    """answers: True, False, or None where it wasn't asked; detail: how long it took and how, or what is wrong."""
    started = time.monotonic()
    try:
        how = ask()
    except NotAskedError as error:
        return {"answers": None, "detail": str(error)}
    except UserError as error:
        return {"answers": False, "detail": str(error)}
    except Exception as error:  # whatever the network comes up with
        return {"answers": False, "detail": one_line(f"{type(error).__name__}: {error}", 160)}
    seconds = f"{time.monotonic() - started:.1f} s"
    return {"answers": True, "detail": f"{seconds}, {how}" if how else seconds}


def _ask_hub() -> str:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise NotAskedError("not asked: HF_HUB_OFFLINE is set")
    with suppress(HTTPError):  # a refusal is an answer
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=ANSWER_SECONDS).close()
    return ""


def _ask_index() -> str:
    """Through the installer that is here, which knows where the index is and how to get there."""
    from smpcli.index import NoInstallerError, ask
    from smpcli.tasks.movies import REQUIREMENT

    try:
        return f"through {ask(REQUIREMENT.partition('==')[0], ANSWER_SECONDS)}"
    except NoInstallerError as error:
        raise NotAskedError(f"not asked: {error}") from error
