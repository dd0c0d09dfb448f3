"""`select: best`: a run ends as the model of its best dev evaluation at the final density, and says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smpcli import compare, evaluate, prune
from smpcli.evaluation.recompute import reopen
from smpcli.runs.schema import parse_result
from smpcli.settings import resolve
from smpcli.training import session

METHODS = ["smp", "movement", "soft-movement", "magnitude", "l0", "dense"]


class Script:
    """Evaluations that find the values that it is given, and remember the model that each was about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
        self.values = list(values)
        self.seen: list[dict[str, Tensor]] = []
        self.by_model: dict[bytes, float] = {}
        found = session.evaluate

        def scripted(model: Any, *args: Any) -> Any:
            made = found(model, *args)
            state = {name: tensor.detach().clone() for name, tensor in model.backbone.state_dict().items()}
            key = b"".join(tensor.numpy().tobytes() for tensor in state.values())
            if key not in self.by_model:
                self.by_model[key] = self.values.pop(0)
            self.seen.append(state)
            return type(made)({"accuracy": self.by_model[key], "macro_f1": 0.0}, made.predictions)

        monkeypatch.setattr(session, "evaluate", scripted)


@pytest.fixture
def run(pico: Any, sentiment: Any, tmp_path: Path) -> Callable[..., Any]:
    def call(method: str, **options: Any) -> Any:
        given: dict[str, Any] = {"model": str(pico("bert")), "max_steps": 20, "batch_size": 8, "evaluations": 10}
        given |= {"output": tmp_path / "results", "select": "best"}
        return prune(str(sentiment.csv), method, **{**given, **options})

    return call


@pytest.mark.parametrize("method", METHODS)
def test_the_finished_model_is_the_one_that_was_evaluated_best(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    # After 2, 4, … 20 steps. The final density is reached at 0.6 of them: the step that begins at 12 is the first one
    # there, so that evaluations count from 14 on. Of the two of 0.8 the first wins.
    values = [0.9, 0.1, 0.2, 0.1, 0.1, 0.95, 0.5, 0.8, 0.8, 0.7]
    best = 1 if method == "dense" else 8
    if method == "dense":
        values = [0.95, *values[1:5], 0.1, *values[6:]]
    script = Script(monkeypatch, values)
    path = run(method).path
    # Ten evaluations, and once more the one that was put back.
    assert len(script.seen) == 11
    chosen, again = script.seen[best - 1], script.seen[-1]
    assert all(torch.equal(chosen[name], again[name]) for name in chosen)
    assert not all(torch.equal(chosen[name], script.seen[9][name]) for name in chosen)
    state = reopen(path).model.backbone.state_dict()
    assert all(torch.equal(state[name], chosen[name]) for name in chosen)
    found = json.loads((path / "result.json").read_text())
    assert found["metrics"]["accuracy"] == max(values if method == "dense" else values[6:])
    assert found["training"]["selected"] == {
        "step": 2 * best, "on": "dev", "metric": "accuracy", "among": 10 if method == "dense" else 4,
    }  # fmt: skip
    assert [value for _, value in found["training"]["metric_history"]] == values
    assert found["weights"]["kept"] == (found["weights"]["prunable"] // 10 if method != "dense" else 10_240 + 4_096)


@pytest.mark.parametrize("method", ["soft-movement", "l0"])
def test_what_the_method_reports_is_of_the_model_that_was_chosen(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from pruners.methods import METHODS

    reports: list[dict[str, float]] = []
    kind = METHODS.load(method)
    found = kind.report

    def watched(pruner: Any, layers: Any) -> dict[str, float]:
        reports.append(found(pruner, layers))
        # tau is the threshold of the model's own scores: as many lie above it as are kept.
        if method == "soft-movement":
            scores = torch.cat([layer.score().reshape(-1) for layer in layers]).double().sigmoid()
            assert int((scores >= reports[-1]["tau"]).sum()) == sum(int(layer.mask.sum()) for layer in layers)
        return reports[-1]

    monkeypatch.setattr(kind, "report", watched)
    Script(monkeypatch, [0.1] * 6 + [0.5, 0.8, 0.8, 0.7])
    result = run(method, structure=1.0).result
    assert result.method.report == reports[-1] and len(reports) == 2


def test_where_the_last_is_the_best_it_is_the_run_without_selection(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Script(monkeypatch, [0.1 * number for number in range(10)])
    best = run("movement")
    monkeypatch.undo()
    last = run("movement", select="last")
    assert best.path != last.path
    for name in ("mask.safetensors", "weights.safetensors", "head.safetensors", "predictions.jsonl"):
        assert (best.path / name).read_bytes() == (last.path / name).read_bytes()
    assert best.result.training.selected.step == 20 and last.result.training.selected is None
    assert "selected" not in json.loads((last.path / "result.json").read_text())["training"]


def test_eval_agrees_and_compare_marks_it(run: Callable[..., Any], tmp_path: Path) -> None:
    from rich.console import Console

    best, last = run("smp", ramp_end=0.2), run("smp", ramp_end=0.2, select="last")
    assert evaluate(best.path).agrees
    made = compare(tmp_path / "results")
    rows = {row.select: row for row in made.rows}
    assert rows.keys() == {"best", "last"} and rows["best"].settings == "select=best"
    assert rows["best"].mean >= rows["last"].mean
    console = Console(width=160, record=True)
    with console.capture() as shown:
        console.print(made)
    lines = shown.get().splitlines()
    assert [line.split()[:2] == ["smp", "‡"] for line in lines if line.startswith("smp")].count(True) == 1
    assert "‡ dev chose the model: the best of a run's evaluations at the final density" in shown.get()
    assert "smp ‡" in made.to_markdown() and "‡ dev chose" in made.to_markdown()
    assert r"smp $\ddagger$" in made.to_latex()
    settings = last.path / "settings.yaml"
    # Of the same size, as a result knows its files.
    settings.write_text(settings.read_text().replace("\nselect:", "\n#elect:"))
    # A run from before there was the setting says nothing of it.
    assert {row.settings for row in compare(tmp_path / "results").rows} == {"select=best", "select=last"}


def test_settings_that_came_later_change_no_old_run_s_name() -> None:
    plain = resolve(flags={"task": "sst2"})
    assert not {"select", "penalty_start", "penalty_end"} & plain.digested().keys()
    assert {"select", "penalty_start", "penalty_end"} <= plain.flat().keys()
    other = resolve(flags={"task": "sst2", "select": "best", "penalty_end": 0.5})
    assert (other.digested()["select"], other.digested()["penalty_end"]) == ("best", 0.5)


def test_a_result_is_read_whole(run: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing that a run writes is dropped when it is read: not its teacher, not what dev chose."""
    teacher = run("dense", output=tmp_path / "teacher", select="last")
    run("smp", teacher=str(teacher.path), ramp_end=0.2)
    (taught,) = (tmp_path / "results").iterdir()
    for path in (taught, teacher.path):
        text = (path / "result.json").read_text()
        assert parse_result(text).model_dump(mode="json") == json.loads(text)
    read = parse_result((taught / "result.json").read_text())
    assert read.training.teacher is not None and read.training.selected is not None
    assert (read.training.teacher.name, read.training.teacher.kl) == (str(teacher.path), "reverse")
    (row,) = compare(tmp_path / "results", where=["training.teacher.temperature=2.0"]).rows
    assert row.kd
    assert "| smp + KD ‡ |" in compare(tmp_path / "results").to_markdown()
