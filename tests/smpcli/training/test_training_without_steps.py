"""Runs that train nothing have no steps, and say so wherever steps are counted; those that train a head alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from pruners.masks.layer import LayerStatistics
from pruners.masks.stack import stacks_of
from smpcli import UserError, api, evaluate, plan, prune
from smpcli.commands.live import RunDisplay
from smpcli.errors import Interrupted
from smpcli.training import session

ONE_SHOT = ["wanda", "magnitude-one-shot"]


@pytest.fixture
def given(pico: Any) -> dict[str, Any]:
    return {"model": str(pico("bert")), "max_steps": 6, "batch_size": 16, "max_length": 24, "precision": "fp32"}


@pytest.mark.parametrize("head", ["auto", "classifier"])
@pytest.mark.parametrize("method", ONE_SHOT)
def test_a_dry_run_foretells_the_steps(
    sentiment: Any, given: dict[str, Any], tmp_path: Path, method: str, head: str
) -> None:
    given |= {"head": head, "output": tmp_path}
    found = plan(str(sentiment.csv), method, 0.9, **given)
    result = prune(str(sentiment.csv), method, 0.9, **given).result
    steps = 6 if head == "classifier" else 0
    assert found.steps == result.training.steps == steps
    assert (found.schedule is None) == (steps == 0)
    # A classifier over pico's 32 features and two labels: 64 weights and 2 biases.
    assert found.trained_weights == result.weights.trained == (66 if steps else 0)
    assert (result.training.seconds_per_step > 0) == (steps > 0)


def test_the_steps_of_a_task_of_unknown_size_are_known_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMP_DATA_DIR", raising=False)
    assert plan("squad", "gmp").steps is None
    assert plan("squad", "wanda").steps == 0


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("method", ONE_SHOT)
def test_a_head_is_trained_alone_on_masks_that_stand(
    sentiment: Any, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, stacked: bool
) -> None:
    assemble = session.assemble
    made: list[session.Session] = []

    def kept(*args: Any, **how: Any) -> Any:
        made.append(assemble(*args, **{**how, "stacked": stacked}))
        return made[-1]

    monkeypatch.setattr(session, "assemble", kept)
    still = prune(str(sentiment.csv), method, 0.9, output=tmp_path, **given)
    trained = prune(str(sentiment.csv), method, 0.9, output=tmp_path, head="classifier", **given)
    assert [stacks_of(one.layers) is not None for one in made] == [stacked, stacked]
    one, other = still.read_masks(), trained.read_masks()
    assert all(torch.equal(one[name], other[name]) for name in one)
    # No gradient was computed for the encoder.
    wanted = {name for name, weight in made[1].model.backbone.named_parameters() if weight.requires_grad}
    assert wanted == {"classifier.weight", "classifier.bias"}
    assert load_file(trained.path / "head.safetensors").keys() == wanted
    assert not (trained.path / "weights.safetensors").exists()
    assert len({row["loss"] for row in trained.metrics}) > 1
    assert [row["loss"] for row in still.metrics] == [None]
    for run in (still, trained):
        assert evaluate(run.path).agrees


def test_the_length_asked_for_changes_nothing(sentiment: Any, given: dict[str, Any], tmp_path: Path) -> None:
    given |= {"output": tmp_path, "evaluations": 3}
    one = prune(str(sentiment.csv), "wanda", 0.9, **given)
    # `select: best` has nothing to choose from.
    other = prune(str(sentiment.csv), "wanda", 0.9, **{**given, "max_steps": 400, "select": "best"})
    assert other.result.training.selected is None
    for name in ("mask.safetensors", "head.safetensors", "metrics.jsonl", "predictions.jsonl"):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


def test_a_run_that_is_interrupted_while_it_is_evaluated_goes_on(
    sentiment: Any, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given |= {"output": tmp_path / "broken"}
    once = session.Session.evaluate
    calls: list[session.Session] = []

    def stopped(self: Any) -> Any:
        calls.append(self)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return once(self)

    monkeypatch.setattr(session.Session, "evaluate", stopped)
    with pytest.raises(Interrupted, match="after step 0"):
        prune(str(sentiment.csv), "wanda", 0.9, **given)
    resumed = prune(str(sentiment.csv), "wanda", 0.9, resume=True, **given)
    assert len(calls) == 2
    whole = prune(str(sentiment.csv), "wanda", 0.9, **{**given, "output": tmp_path / "whole"})
    for name in ("mask.safetensors", "head.safetensors", "metrics.jsonl", "predictions.jsonl"):
        assert (resumed.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_teacher_of_nothing_is_refused(sentiment: Any, given: dict[str, Any], tmp_path: Path) -> None:
    given |= {"teacher": str(tmp_path), "output": tmp_path / "results"}
    with pytest.raises(UserError, match=r"^method 'wanda' trains nothing, so it has no use for a teacher; leave it"):
        prune(str(sentiment.csv), "wanda", **given)
    assert not (tmp_path / "results").exists()


def test_activations_that_are_no_numbers_are_told_without_a_step(
    sentiment: Any, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflown(model: Any, layers: Any, batches: Any) -> dict[str, LayerStatistics]:
        return {layer.name: LayerStatistics(torch.full((layer.weight.shape[1],), torch.nan)) for layer in layers}

    monkeypatch.setattr(session, "input_statistics", overflown)
    with pytest.raises(UserError, match=r"^method 'wanda' can't choose masks: a score is NaN$"):
        prune(str(sentiment.csv), "wanda", 0.9, output=tmp_path, **given)


def test_what_has_no_steps_has_none_to_measure(pico: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, Any] = {"model": str(pico("bert")), "batch_size": 2, "length": 4}
    with pytest.raises(UserError, match=r"^method 'wanda' trains nothing, so it has no step to measure; leave"):
        api.bench_operations(["smp", "wanda"], **small)
    asked: list[list[str]] = []
    monkeypatch.setattr("smpcli.bench.operations.count_operations", lambda names, case: asked.append(names))
    api.bench_operations(**small)
    api.bench_operations(**small, settings={"head": "classifier"})
    assert {*asked[1]} - {*asked[0]} == {*ONE_SHOT} and {"smp", "gmp", "random", "dense"} <= {*asked[0]}


def test_a_sweep_says_how_long_it_takes(
    sentiment: Any, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sweep.yaml"
    grid = {"methods": ["wanda"], "sparsities": [0.5, 0.9], "tasks": [str(sentiment.csv)], "settings": given}
    file.write_text(yaml.safe_dump(grid))
    runs, found = api.estimate_sweep(file, output=tmp_path / "results", calibrate=True)
    assert [run.steps for run in runs] == [0, 0]
    (seconds,) = {*found.seconds.values()}
    assert seconds is not None and 0 < seconds < 60 and found.sources == ["a run without steps"]
    made = prune(str(sentiment.csv), "wanda", 0.5, output=tmp_path / "results", **given)
    runs, found = api.estimate_sweep(file, output=tmp_path / "results")
    assert [run.state for run in runs] == ["finished", "waiting"]
    assert found.total == made.result.run.seconds


def test_it_is_shown_without_a_step_or_a_loss(
    sentiment: Any, given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunDisplay(quiet=False) as progress:
        prune(str(sentiment.csv), "wanda", 0.75, output=tmp_path, progress=progress, **given)
    shown = capsys.readouterr().err.splitlines()
    assert "wanda trains nothing, so there are no steps; head=classifier trains a head" in shown
    (line,) = [line for line in shown if line.startswith("density")]
    assert line.startswith("density 0.250  accuracy 0.") and "nan" not in "".join(shown)
