"""Experiment trackers, off unless asked for: Accelerate's, each told what metrics.jsonl is told."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError, one_line, unknown

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Tracker -> the package that it needs.
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}


def check_tracker(name: str | None) -> None:
    """Raise `UserError` for a tracker that isn't known or isn't installed; imports nothing."""
    if name is None:
        return
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if find_spec(TRACKERS[name]) is None:
        raise UserError(f"tracker '{name}' isn't installed", f"pip install {TRACKERS[name]}, or leave --track out")


def start_tracker(name: str | None, accelerator: Accelerator, run_id: str, settings: dict[str, Any]) -> None:
    """Begin the run's record. Raises `UserError` where the tracker refuses, e.g. as nobody is logged in."""
    if name is None:
        return
    # TensorBoard has no projects: there, a run's folder is all.
    project = run_id if name == "tensorboard" else "smp"
    own: dict[str, dict[str, Any]] = {
        # It adds a folder "wandb" of its own.
        "wandb": {"name": run_id, "dir": accelerator.project_dir and str(Path(accelerator.project_dir).parent)},
        "trackio": {"name": run_id},
        "mlflow": {"run_name": run_id},
    }
    shown = {key: value for key, value in settings.items() if isinstance(value, str | int | float)}
    try:
        if accelerator.is_main_process and accelerator.project_dir is not None:
            Path(accelerator.project_dir).mkdir(parents=True, exist_ok=True)
        accelerator.init_trackers(project, config=shown, init_kwargs={name: own[name]} if name in own else {})
    except Exception as error:  # each tracker has errors of its own
        raise UserError(f"tracker '{name}' doesn't start: {one_line(str(error), 180)}") from error
