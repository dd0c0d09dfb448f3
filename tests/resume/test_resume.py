"""A run that is broken off goes on as if nothing had happened; nobody else's run does."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from breaking import Broken, Watcher, break_off
from killing import MOMENTS, left_by
from safetensors import safe_open
from safetensors.torch import load_file

from smpcli import UserError, prune
from smpcli.errors import Interrupted
from smpcli.training import checkpoint, session
from smpcli.training.checkpoint import parse_every

HERE = Path(__file__).resolve().parent
STEPS = 12


@pytest.fixture
def run(pico: Any, sentiment: Any) -> Callable[..., Any]:
    def call(output: Path, method: str = "movement", **options: Any) -> Any:
        given = {"model": str(pico("bert")), "max_steps": STEPS, "batch_size": 16, "evaluations": 3}
        given |= {"checkpoint_every": 2, "seed": 5}
        return prune(str(options.pop("task", sentiment.csv)), method, output=output, **{**given, **options})

    return call


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoint").iterdir())


@pytest.mark.slow
def test_kills_at_every_kind_of_moment(pico: Any, sentiment: Any) -> None:
    """The short form of `python tests/resume/killing.py --kills 20`, which kills every method 20 times."""
    command = [sys.executable, str(HERE / "killing.py"), "--kills", "4", "--methods", "smp", "magnitude"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["smp", "magnitude"]
    for line in lines:
        assert line.endswith("4 of 4 resumed to the same bytes")
        assert all(re.search(rf"[1-9]\d* in {moment}", line) for moment in MOMENTS[:-1])


def test_a_checkpoint_holds_everything_and_a_finished_run_none(run: Any, tmp_path: Path) -> None:
    with pytest.raises(Broken):
        run(tmp_path, progress=Watcher(9, break_off))
    path = only(tmp_path)
    assert checkpoints(path) == ["index.json", "step-000008.safetensors"]
    (path / "checkpoint" / ".step-000010.safetensors.abc.tmp").write_bytes(b"half")
    (path / ".result.json.abc.tmp").write_bytes(b"half")
    with safe_open(path / "checkpoint" / "step-000008.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["smp"])
        names = set(file.keys())
    assert (about["step"], len(about["rows"]), [step for step, _ in about["history"]]) == (8, 8, [4, 8])
    kinds = {name.partition(".")[0] for name in names}
    assert {"model", "layer", "optimizer", "random"} <= kinds
    # AdamW's state of each trained number, under its name.
    trained = {name for name in names if name.startswith(("layer.", "model.")) and f"optimizer.step.{name}" in names}
    assert any(name.endswith(".scores") for name in trained)
    moments = {f"optimizer.{key}.{name}" for name in trained for key in ("step", "exp_avg", "exp_avg_sq")}
    assert {name for name in names if name.startswith("optimizer")} == moments
    watcher = Watcher()
    run(tmp_path, resume=True, progress=watcher)
    assert watcher.steps == [9, 10, 11, 12, 12] and "goes on after step 8 of 12" in watcher.notes
    assert {entry.name for entry in path.iterdir()} == {
        *("settings.yaml", "metrics.jsonl", "predictions.jsonl", "result.json"),
        *("mask.safetensors", "head.safetensors", "weights.safetensors"),
    }
    run(tmp_path / "whole")
    assert left_by(tmp_path / "whole") == {
        name: content for name, content in left_by(tmp_path).items() if not name.startswith("whole")
    }


@pytest.mark.parametrize("kind", ["l0", "platon", "obert", "taught", "spans"])
def test_drawn_gates_running_means_a_teacher_and_spans_resume_to_the_same_bytes(
    run: Any, tmp_path: Path, quiz: Path, kind: str
) -> None:
    given: dict[str, Any] = {"method": kind if kind in ("l0", "platon", "obert") else "movement"}
    if kind in ("platon", "obert"):
        # Broken off within a window.
        given["mask_every"] = 4
    if kind == "spans":
        given |= {"task": str(quiz), "max_length": 36, "stride": 8}
    if kind == "taught":
        given["teacher"] = str(run(tmp_path / "teacher", "dense").path)
    run(tmp_path / "whole", **given)
    for step in (7, 9):  # before and after an evaluation, from whose masks turnover counts
        with pytest.raises(Broken):
            run(tmp_path / f"broken{step}", progress=Watcher(step, break_off), **given)
        watcher = Watcher()
        run(tmp_path / f"broken{step}", progress=watcher, resume=True, **given)
        assert watcher.steps[0] == step
        assert left_by(tmp_path / f"broken{step}") == left_by(tmp_path / "whole")


@pytest.mark.parametrize("method", ["smp", "movement", "l0", "snip-momentum", "dense"])
def test_a_run_that_ends_as_its_best_resumes_to_the_same_bytes(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    found = session.evaluate

    def by_chance(model: Any, *args: Any) -> Any:
        # A function of the model's numbers alone, without any trend.
        made = found(model, *args)
        state = model.backbone.state_dict().values()
        value = sum(float(tensor.double().abs().sum()) for tensor in state) * 1e4 % 1
        return type(made)({"accuracy": value, "macro_f1": 0.0}, made.predictions)

    monkeypatch.setattr(session, "evaluate", by_chance)
    given: dict[str, Any] = {"method": method, "select": "best", "ramp_end": 0.2, "evaluations": 6}
    best = run(tmp_path / "whole", **given).result.training.selected
    assert best.among > 3
    whole = left_by(tmp_path / "whole")
    # Around the best one, and before and after other evaluations; every second time without a checkpoint before.
    for step in sorted({best.step, best.step + 1, 5, 8, 11, 12} & set(range(1, STEPS + 1))):
        output = tmp_path / f"broken{step}"
        with pytest.raises(Broken):
            run(output, progress=Watcher(step, break_off), **given)
        run(output, resume=True, **given)
        assert left_by(output) == whole, step


@pytest.mark.parametrize("calls", [2, 3, 4])
def test_a_signal_in_any_evaluation_of_a_run_that_ends_as_its_best(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    given: dict[str, Any] = {"select": "best", "ramp_end": 0.2, "checkpoint_every": 0}
    found, values = session.evaluate, {4: 0.8, 8: 0.7, 12: 0.6}
    count = 0

    def scripted(model: Any, *args: Any) -> Any:
        nonlocal count
        count += 1
        made = found(model, *args)
        if count == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        # Of the fourth: that of the model that was put back.
        return type(made)({"accuracy": [0.8, 0.7, 0.6, 0.8][count - 1], "macro_f1": 0.0}, made.predictions)

    monkeypatch.setattr(session, "evaluate", scripted)
    stop = 0
    run(tmp_path / "whole", **given)
    count, stop = 0, calls
    with pytest.raises(Interrupted) as caught:
        run(tmp_path / "a", **given)
    if calls == 4:
        assert "not before the run was finished" in str(caught.value)
    else:
        assert f"after step {sorted(values)[calls - 1]}" in str(caught.value)
        count, stop = calls - 1, 0
        run(tmp_path / "a", resume=True, **given)
    assert left_by(tmp_path / "a") == left_by(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["best.layer", "best:", "step"])
def test_a_strangers_best_model_is_refused(run: Any, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    given: dict[str, Any] = {"select": "best", "ramp_end": 0.2}
    with pytest.raises(Broken):
        run(tmp_path, progress=Watcher(7, break_off), **given)
    folder = only(tmp_path) / "checkpoint"
    file = folder / json.loads((folder / "index.json").read_text())["last"]
    with safe_open(file, framework="pt") as opened:
        about, tensors = opened.metadata()["smp"], {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    names = [name for name in tensors if name.startswith(damage)]
    if damage == "best.layer":
        tensors[names[0]] = torch.zeros(7)
    elif damage == "best:":
        content = json.loads(about)
        del tensors[names[0]], content["shapes"][names[0]]
        about = json.dumps(content)
    else:
        content = json.loads(about)
        assert content["best"]["step"] == 4
        content["best"]["step"] = 0
        about = json.dumps(content)
    save_file(tensors, file, {"smp": about})
    # The other checkpoint is as damaged.
    (folder / "index.json").write_text(json.dumps({"last": file.name, "best": None, "metric": None}))
    with pytest.raises(UserError, match="damaged checkpoint"):
        run(tmp_path, resume=True, **given)


def test_the_best_and_the_last_are_kept(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([0.9] * 6 + [0.7, 0.8, 0.6])
    found = session.evaluate

    def scripted(*args: Any) -> Any:
        made = found(*args)
        return type(made)({name: next(values) for name in ["accuracy"]} | {"macro_f1": 0.0}, made.predictions)

    monkeypatch.setattr(session, "evaluate", scripted)
    with pytest.raises(Broken):
        # Evaluated after 2, 4, … of 20 steps; the final density is reached at 0.6 of them, so that 0.9 doesn't count.
        run(tmp_path, max_steps=20, evaluations=10, checkpoint_every=19, progress=Watcher(20, break_off))
    path = only(tmp_path)
    assert checkpoints(path) == ["index.json", "step-000016.safetensors", "step-000019.safetensors"]
    index = json.loads((path / "checkpoint" / "index.json").read_text())
    assert index == {"last": "step-000019.safetensors", "best": "step-000016.safetensors", "metric": 0.8}


def test_a_damaged_last_checkpoint_leaves_the_best(run: Any, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", ramp_end=0.3).path
    with pytest.raises(Broken):
        run(tmp_path / "a", ramp_end=0.3, progress=Watcher(11, break_off))
    path = only(tmp_path / "a")
    index = json.loads((path / "checkpoint" / "index.json").read_text())
    assert index["best"] != index["last"]
    (path / "checkpoint" / index["last"]).write_bytes(b"half")
    run(tmp_path / "a", ramp_end=0.3, resume=True)
    assert (path / "mask.safetensors").read_bytes() == (whole / "mask.safetensors").read_bytes()


def test_without_a_checkpoint_a_resumed_run_begins_and_a_finished_one_is_returned(run: Any, tmp_path: Path) -> None:
    first = run(tmp_path, resume=True)
    before = left_by(tmp_path)
    (first.path / ".mask.safetensors.abc.tmp").write_bytes(b"half")
    (first.path / "checkpoint").mkdir()
    watcher = Watcher()
    assert run(tmp_path, resume=True, progress=watcher).path == first.path
    assert watcher.steps == [] and left_by(tmp_path) == before
    assert not (first.path / "checkpoint").exists()


def test_another_run_is_refused_with_the_differences(run: Any, tmp_path: Path, sentiment: Any) -> None:
    with pytest.raises(Broken):
        run(tmp_path, progress=Watcher(5, break_off))
    before = left_by(tmp_path)
    with pytest.raises(UserError, match=r"differs in batch_size \(16, now 8\), seed \(5, now 6\); give its settings"):
        run(tmp_path, resume=True, seed=6, batch_size=8)
    # Places and the rhythm of checkpoints make no other run.
    assert left_by(tmp_path) == before
    run(tmp_path, resume=True, checkpoint_every="1m", data_dir=str(tmp_path))


def test_another_number_of_processes_is_refused(run: Any, tmp_path: Path) -> None:
    with pytest.raises(Broken):
        run(tmp_path, progress=Watcher(5, break_off))
    saved = checkpoint.read(only(tmp_path) / "checkpoint")
    assert saved is not None
    about = saved.about
    same = checkpoint.Identity(about.settings, about.data, about.base)
    assert same.differences(about) == []
    assert dataclasses.replace(same, processes=2).differences(about) == ["processes (1, now 2)"]


def test_other_data_and_other_weights_are_refused(run: Any, tmp_path: Path, pico: Any, sentiment: Any) -> None:
    import shutil

    from safetensors.torch import save_file

    task, model = tmp_path / "own.csv", tmp_path / "model"
    shutil.copy(sentiment.csv, task)
    shutil.copytree(pico("bert"), model)
    output = tmp_path / "results"
    with pytest.raises(Broken):
        run(output, task=task, model=str(model), progress=Watcher(5, break_off))
    before = left_by(output)
    task.write_text(task.read_text().replace("the", "that"))
    weights = load_file(model / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][0] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"can't be resumed.*different: the data, the base model's weights"):
        run(output, task=task, model=str(model), resume=True)
    assert left_by(output) == before


@pytest.mark.parametrize("damage", ["index", "link", "names", "shape", "random", "about", "missing"])
def test_a_strangers_checkpoint(run: Any, tmp_path: Path, damage: str) -> None:
    from safetensors.torch import save_file

    with pytest.raises(Broken):
        run(tmp_path, method="dense", evaluations=1, progress=Watcher(5, break_off))
    folder = only(tmp_path) / "checkpoint"
    index, file = folder / "index.json", folder / "step-000004.safetensors"
    with safe_open(file, framework="pt") as opened:
        about, tensors = opened.metadata()["smp"], {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if damage == "index":
        index.write_text('{"last": "../../../elsewhere.safetensors", "best": null, "metric": null}')
    elif damage == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "names":
        save_file({**tensors, "model.none": torch.zeros(2)}, file, {"smp": about})
    elif damage == "shape":
        name = next(name for name in tensors if name.startswith("optimizer.exp_avg."))
        save_file({**tensors, name: torch.zeros(7)}, file, {"smp": about})
    elif damage == "random":
        save_file({**tensors, "random.torch.0": torch.zeros(3, dtype=torch.uint8)}, file, {"smp": about})
    elif damage == "about":
        save_file(tensors, file, {"smp": about.replace('"step":4', '"step":-4')})
    else:
        save_file(
            {name: tensor for name, tensor in tensors.items() if "classifier" not in name}, file, {"smp": about}
        )
    with pytest.raises(UserError, match="damaged checkpoint"):
        run(tmp_path, method="dense", evaluations=1, resume=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["a step", "an evaluation", "the last evaluation"])
def test_signals_write_a_checkpoint(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, where: str
) -> None:
    whole = run(tmp_path / "whole")
    calls = 0
    found = session.evaluate

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == {"an evaluation": 2, "the last evaluation": 3}.get(where):
            os.kill(os.getpid(), number)
            time.sleep(5)  # the signal doesn't wait for it
        return found(*args)

    watcher = Watcher(7, lambda: os.kill(os.getpid(), number)) if where == "a step" else Watcher()
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with monkeypatch.context() as patched, pytest.raises(Interrupted) as stop:
        patched.setattr(session, "evaluate", interrupted)
        run(tmp_path / "a", checkpoint_every=0, progress=watcher)
    step = {"a step": 7, "an evaluation": 8, "the last evaluation": 12}[where]
    path = only(tmp_path / "a")
    assert stop.value.code == code and f"after step {step}: a checkpoint is in {path}" in str(stop.value)
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    command = shlex.split(stop.value.resume)
    assert command[:2] == ["smp", "prune"] and command[-1] == "--resume"
    assert command[2:-1] == ["--recipe", str(path / "settings.yaml"), "--output", str(path.parent)]
    prune(recipe=command[3], output=command[5], resume=True)
    assert left_by(tmp_path / "a")[f"{path.name}/metrics.jsonl"] == (whole.path / "metrics.jsonl").read_bytes()
    assert (path / "weights.safetensors").read_bytes() == (whole.path / "weights.safetensors").read_bytes()


def test_a_signal_while_the_result_is_written_waits_for_it(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smpcli.training import run as running

    save = running._save

    def interrupted(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        save(*args)

    monkeypatch.setattr(running, "_save", interrupted)
    with pytest.raises(Interrupted, match="not before the run was finished") as stop:
        run(tmp_path)
    assert stop.value.code == 143
    assert (only(tmp_path) / "result.json").is_file()


def test_two_processes_never_share_a_folder(run: Any, tmp_path: Path) -> None:
    def meanwhile() -> None:
        with pytest.raises(UserError, match=r"another process is writing .*movement.*--output"):
            run(tmp_path, overwrite=True)

    path = run(tmp_path, progress=Watcher(3, meanwhile)).path
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    run(tmp_path, overwrite=True)


def test_the_disk_that_is_needed_is_told_and_must_be_there(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Watcher(5, break_off)
    with pytest.raises(Broken):
        run(tmp_path, progress=watcher)
    (need,) = [float(match[1]) for note in watcher.notes if (match := re.search(r"needs up to ([\d.]+) MB", note))]
    size = (only(tmp_path) / "checkpoint" / "step-000004.safetensors").stat().st_size
    # Three of them (the best, the last, the next), and about a megabyte of the rest.
    assert 3 * size / 1e6 < need + 0.1 < 3 * size / 1e6 + 1.7
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"has 1.0 kB free, and the run needs up to .*--output.*checkpoint_every=0"):
        run(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_what_checkpoint_every_means() -> None:
    assert [parse_every(value) for value in (500, "5m", "0.5m", "10 m", 0)] == [
        (500, 0.0), (0, 300.0), (0, 30.0), (0, 600.0), (0, 0.0),
    ]  # fmt: skip
