"""Runs made by hand, and exports that are verified in this process, for tests that ask something else of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade
import pytest

import smpcli


def _run_here(path: Path, scratch: Path, code: str | None) -> None:
    from smpcli.export import reload

    if code is None:
        reload.main(path, scratch)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["-c", str(path), str(scratch)])
        exec(code, {})


@pytest.fixture
def verified_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What verifies does so in this process, which takes seconds less."""
    from smpcli.export import verify

    monkeypatch.setattr(verify, "_run_process", _run_here)


@pytest.fixture(scope="session")
def export_here() -> Callable[..., Any]:
    """`smpcli.export`, verified in this process."""
    from smpcli.export import verify

    def export(*args: Any, **named: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verify, "_run_process", _run_here)
            return smpcli.export(*args, **named)

    return export


@pytest.fixture
def make_run() -> handmade.MakeRun:
    return handmade.make_run
