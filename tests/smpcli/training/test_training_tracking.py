"""Trackers: TensorBoard's files hold what metrics.jsonl holds; others are asked for only where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smpcli import UserError, prune
from smpcli.training import tracking


@pytest.fixture
def settings(pico: Callable[[str], Path], sentiment: Any, tmp_path: Path) -> dict[str, Any]:
    short = {"max_steps": 6, "batch_size": 8, "max_length": 24, "evaluations": 2}
    return {"task": str(sentiment.csv), "model": str(pico("bert")), "output": tmp_path / "results", **short}


def test_tensorboard_has_the_run_s_metrics(settings: dict[str, Any]) -> None:
    run = prune(**settings, track="tensorboard")
    record = EventAccumulator(str(settings["output"] / "tensorboard" / run.path.name))
    record.Reload()
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    for name in ("loss", "density", "accuracy"):
        expected = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows if name in row]
        assert [(event.step, event.value) for event in record.Scalars(name)] == expected
    # The run's own folder is as without a tracker, and so is what decides its name.
    assert prune(**settings, overwrite=True).path == run.path
    assert not [path for path in run.path.iterdir() if "events" in path.name]


def test_nothing_is_tracked_unless_asked(settings: dict[str, Any]) -> None:
    prune(**settings)
    assert [path.name.startswith("sentiment-smp") for path in settings["output"].iterdir()] == [True]


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_refused_at_once(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    with pytest.raises(UserError, match=f"pip install {name}"):
        prune(**settings, track=name)
    assert not settings["output"].exists()


def test_an_unknown_tracker_names_the_nearest(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="did you mean 'wandb'"):
        prune(**settings, track="wandv")


def test_a_tracker_that_does_not_start_ends_the_run_in_a_line(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import Accelerator

    def refuse(*args: Any, **named: Any) -> None:
        raise RuntimeError("nobody is logged in\nat all")

    monkeypatch.setattr(Accelerator, "init_trackers", refuse)
    with pytest.raises(UserError, match="nobody is logged in at all"):
        prune(**settings, track="tensorboard")
    assert not list(settings["output"].glob("*/result.json"))
