"""Numbers that are none stop a run where they arise; masks and metrics that say nothing are named."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pruners.base import Pruner
from pruners.smp import SMP
from smpcli import UserError, evaluate, prune
from smpcli.encoding.batches import LengthBuckets
from smpcli.modeling.heads import TaskModel
from smpcli.tasks.metrics import undefined
from smpcli.training import loop


class Watcher:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def phase(self, name: str) -> None: ...
    def step(self, step: Any) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def run(pico: Any, sentiment: Any, tmp_path: Path) -> Callable[..., Any]:
    def call(method: str = "smp", task: Path = sentiment.csv, **options: Any) -> Any:
        given = {"model": str(pico("bert")), "max_steps": 8, "batch_size": 8, "checkpoint_every": 2, "evaluations": 1}
        return prune(str(task), method, output=tmp_path / "out", **{**given, **options})

    return call


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_step_examples_and_checkpoint(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    seen: list[list[int]] = []
    batches = LengthBuckets.batches

    def recorded(self: LengthBuckets, epoch: int) -> list[list[int]]:
        found = batches(self, epoch)
        seen[:] = found
        return found

    forward = TaskModel.forward
    steps = 0

    def poisoned(model: TaskModel, **inputs: Any) -> Any:
        nonlocal steps
        logits = forward(model, **inputs)
        steps += model.training
        return logits * value if model.training and steps == 6 else logits

    monkeypatch.setattr(LengthBuckets, "batches", recorded)
    monkeypatch.setattr(TaskModel, "forward", poisoned)
    with pytest.raises(UserError) as error:
        run()
    message = str(error.value)
    shown = ", ".join(map(str, sorted(seen[5])[:6]))
    assert message.startswith("training diverged at step 6: the loss is nan, in the batch of training examples ")
    assert f"examples {shown}, … (8); the last good checkpoint is step 4" in message and len(message) <= 300
    (path,) = (tmp_path / "out").iterdir()
    assert not (path / "result.json").exists()
    monkeypatch.setattr(TaskModel, "forward", forward)
    assert run(resume=True).result.training.steps == 8


def test_a_gradient_that_is_no_number_stops_before_it_is_saved(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is still fine when the weights are ruined: no checkpoint is made of them."""
    calls = 0
    straight_through = loop.straight_through

    def poisoned(pruner: Any, layers: Any, *more: Any) -> None:
        nonlocal calls
        straight_through(pruner, layers, *more)
        calls += 1
        if calls == 4:
            layers[0].scores.grad[0, 0] = math.inf

    monkeypatch.setattr(loop, "straight_through", poisoned)
    with pytest.raises(UserError, match=r"step 4: the gradient's norm is (inf|nan).*last good checkpoint is step 2"):
        run()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("when", [4, 8])
def test_a_score_that_is_no_number(run: Any, monkeypatch: pytest.MonkeyPatch, value: float, when: int) -> None:
    """Found when a checkpoint would be made of it (step 4), and at the end (step 8)."""
    calls = 0
    fold = loop.fold_factors

    def poisoned(layers: Any) -> None:
        nonlocal calls
        fold(layers)
        calls += 1
        if calls == when:
            with torch.no_grad():
                layers[0].scores[0, 0] = value

    monkeypatch.setattr(loop, "fold_factors", poisoned)
    with pytest.raises(UserError, match=rf"diverged at step {when}: .*(NaN or infinite|NaN)"):
        run()


def test_an_emptied_matrix_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(self: Pruner, layers: Any, kept: int) -> list[int]:
        if kept > 3000:
            return [min(kept // len(layers), layer.weight.numel()) for layer in layers[:-1]] + [
                kept - sum(min(kept // len(layers), layer.weight.numel()) for layer in layers[:-1])
            ]
        counts = [0] * len(layers)
        counts[0] = min(kept, layers[0].weight.numel())
        counts[1] = min(kept - counts[0], layers[1].weight.numel())
        counts[2] = kept - sum(counts[:2])
        return counts

    monkeypatch.setattr(SMP, "allocate", allocate)
    watcher = Watcher()
    made = run(sparsity=0.9, ramp_end=0.0, progress=watcher)
    warned = [note for note in watcher.notes if "nothing is left of" in note]
    names = [name for name, mask in made.read_masks().items() if not mask.any()]
    assert names and len(warned) == len(names)
    assert all(any(f"nothing is left of {name}: its mask is empty" in note for note in warned) for name in names)
    recorded = json.loads((made.path / "result.json").read_text())["warnings"]
    assert sum("nothing is left of" in warning for warning in recorded) == len(names)


def test_a_sparsity_that_was_not_reached_is_an_error(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh = loop.refresh

    def one_too_many(pruner: Any, layers: Any, density: float, *dtype: Any, **how: Any) -> None:
        refresh(pruner, layers, density, *dtype, **how)
        mask = layers[0].mask.clone()
        mask.view(-1)[int((~mask).view(-1).int().argmax())] = True
        layers[0].set_mask(mask, narrow=how.get("narrow", False))

    monkeypatch.setattr(loop, "refresh", one_too_many)
    with pytest.raises(UserError, match=r"left 1,434 weights in its masks and .* a sparsity of 0\.9 leaves 1,433"):
        run()
    assert not list((tmp_path / "out").glob("*/result.json"))


def test_metrics_that_say_nothing(run: Any, tmp_path: Path, sentiment: Any) -> None:
    assert undefined(["accuracy", "f1"], [0, 1]) is None
    assert undefined(["accuracy", "macro_f1"], [1, 1]) == (
        "all 2 examples have the same label, where macro_f1 can't tell good from bad"
    )
    assert "guessing it scores 1" in str(undefined(["accuracy"], [1, 1, 1]))
    dev = tmp_path / "dev.csv"
    dev.write_text("text,label\na fine film,positive\na warm story,positive\n")
    watcher = Watcher()
    run(dev_file=str(dev), progress=watcher)
    assert "warning: dev set 'dev': all 2 examples have the same label, where macro_f1 can't tell good from bad" in (
        watcher.notes
    )


class Constant(TaskModel):
    """Whatever it reads, its first output is the highest."""

    def forward(self, **inputs: Any) -> torch.Tensor:
        found = super().forward(**inputs)
        return 0 * found + torch.arange(found.shape[1], 0, -1, dtype=found.dtype)


@pytest.mark.parametrize("regression", [False, True])
def test_a_run_that_predicts_one_class_only_says_so(
    run: Any, sentiment: Any, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder, regression: bool
) -> None:
    from smpcli import compare, evaluate
    from smpcli.modeling import build

    monkeypatch.setattr(build, "TaskModel", Constant)
    watcher = Watcher()
    made = run(task=sentiment.scores if regression else sentiment.csv, progress=watcher)
    examples = made.result.data.dev["dev"]
    said = (
        f"predicts one number only, 1, for all {examples} examples: no correlation can be told"
        if regression
        else f"predicts one class only, 'negative', for all {examples} examples"
    )
    assert f"warning: dev set 'dev': {said}" in watcher.notes
    assert made.result.warnings[-1:] == [f"dev set 'dev': {said}"] == evaluate(made.path).warnings
    assert compare(made.path).rows[0].one_class == (0,)
    assert not [warning for warning in recwarn if "site-packages" in warning.filename]


def test_a_run_that_predicts_several_says_nothing(run: Any) -> None:
    from smpcli import compare

    made = run(sparsity=0.2)
    assert len({row["prediction"] for row in made.predictions["dev"]}) == 2
    assert "only" not in " ".join(made.result.warnings) and compare(made.path).rows[0].one_class == ()


def test_what_was_taken_is_said_and_recorded(run: Any, tmp_path: Path, sentiment: Any) -> None:
    """Columns, kind, counts, rows without a label, dev texts that are trained on: in notes and in result.json."""
    counts = Counter(label for _, label in sentiment.rows)
    dev = tmp_path / "dev.csv"
    known = sentiment.rows[0][0].upper()
    dev.write_text(f"text,label\na fine film,positive\na dull story,negative\n{known},positive\nunknown,-1\n")
    watcher = Watcher()
    made = run(dev_file=str(dev), progress=watcher)
    first = next(i for i, note in enumerate(watcher.notes) if note.startswith("sentiment.csv"))
    assert watcher.notes[first : first + 4] == [
        f"sentiment.csv: text 'text' -> label 'label', 2 classes: negative ({counts['negative']}), "
        f"positive ({counts['positive']})",
        "dev: positive (2), negative (1)",
        f"left out: 1 of {len(sentiment.rows) + 4} rows, as their label '-1' means no label; if it is one, write a "
        "task file with all labels (docs/tasks.md)",
        "1 of 3 dev texts are trained on, too",
    ]
    data = json.loads((made.path / "result.json").read_text())["data"]
    assert data["columns"] == {"text": "text", "pair": None, "label": "label"}
    assert data["kind"] == "classification"
    assert data["labels"] == {"train": dict(counts), "dev": {"dev": {"negative": 1, "positive": 2}}}
    assert (data["left_out"], data["overlap"]) == ({"-1": 1}, {"dev": 1})
    assert made.result.data.model_dump(mode="json") == data
    again = evaluate(made.path)
    assert (again.agrees, again.notes) == (True, ["1 of 3 dev texts are trained on, too"])
