from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from handmade import MakeRun, plain_result, tensor_file

from smpcli.errors import UserError
from smpcli.runs.rundir import RunDir, RunError, digest
from smpcli.runs.schema import Result, SchemaError, parse_result


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- create


def test_create_makes_the_folder_and_what_is_above(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a/b", "run")
    assert run.path == tmp_path / "a/b/run"
    assert list(run.path.iterdir()) == []


def test_a_finished_run_is_kept_unless_told(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run")
    before = snapshot(path)
    with pytest.raises(UserError, match=r"finished run.*--overwrite"):
        RunDir.create(tmp_path, "run")
    assert snapshot(path) == before
    RunDir.create(tmp_path, "run", overwrite=True)
    assert snapshot(path) == {}


def test_an_unfinished_run_is_cleared(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run")
    (path / "result.json").unlink()
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    (path / ".mask.safetensors.ab12.tmp").write_bytes(b"half")
    (path / "checkpoint/deep").mkdir(parents=True)
    (path / "checkpoint/deep/state").write_text("x")
    run = RunDir.create(tmp_path, "run")
    assert list(path.iterdir()) == []
    assert run.metrics == []


def test_what_a_link_points_to_is_not_cleared(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "out/run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/state").write_text("precious")
    (path / "checkpoint").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    RunDir.create(tmp_path / "out", "run", overwrite=True)
    assert list(path.iterdir()) == []
    assert (tmp_path / "elsewhere/state").read_text() == "precious"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "weights.safetensors", ".result.json", "result.json.tmp"])
def test_a_folder_of_something_else_is_never_touched(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    with pytest.raises(UserError, match=r"not part of a run.*--output"):
        RunDir.create(tmp_path, "run", overwrite)
    assert snapshot(tmp_path / "run") == {name: b"mine"}


def test_a_run_with_a_foreign_file_in_it_is_never_touched(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run")
    (path / "notes.txt").write_text("mine")
    before = snapshot(path)
    with pytest.raises(UserError, match=r"notes\.txt"):
        RunDir.create(tmp_path, "run", overwrite=True)
    assert snapshot(path) == before


def test_a_place_that_cannot_be_written_is_one_line_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output, run_id in ((tmp_path / "file", "run"), (tmp_path, "file")):
        with pytest.raises(UserError, match=r"can't write.*--output") as error:
            RunDir.create(output, run_id)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("run_id", ["", ".", "..", "a/b", "../x", "a\0b"])
def test_a_name_never_leads_out_of_the_output_folder(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UserError, match="can't be a run's name"):
        RunDir.create(tmp_path / "out", run_id)
    assert list(tmp_path.iterdir()) == []


def test_clearing_that_is_cut_off_leaves_an_unfinished_run(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run(tmp_path / "run")
    unlink, gone = Path.unlink, 0

    def fail_at_the_second(target: Path, missing_ok: bool = False) -> None:
        nonlocal gone
        gone += 1
        if gone == 2:
            raise OSError(5, "Input/output error")
        unlink(target, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail_at_the_second)
        with pytest.raises(UserError, match="Input/output error"):
            RunDir.create(tmp_path, "run", overwrite=True)
    with pytest.raises(RunError, match="is unfinished"):
        RunDir.open(path)
    RunDir.create(tmp_path, "run")
    assert list(path.iterdir()) == []


# --- open


def test_runs_of_before_some_keys_are_read(tmp_path: Path, make_run: MakeRun) -> None:
    old = {"digest": "d" * 64, "origin": "folder SST-2", "train": 67349, "dev": {"dev": 872}}
    data = RunDir.open(make_run(tmp_path / "run", data=old)).result.data
    assert (data.dev_digests, data.files, data.cut, data.special_tokens) == ({}, {}, {}, None)
    assert (data.columns, data.kind, data.labels, data.range) == ({}, None, None, None)
    assert (data.left_out, data.overlap) == ({}, {})


def test_open_gives_what_is_there(tmp_path: Path, make_run: MakeRun) -> None:
    path = make_run(tmp_path / "run", settings={"init": "zero"}, run__seed=3)
    (path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": null}\n')
    (path / "predictions.jsonl").write_text(
        '{"split": "m", "label": 0, "prediction": 1}\n'
        '{"split": "mm", "label": 2, "prediction": 2}\n'
        '{"split": "m", "label": 1, "prediction": 1}\n'
    )
    run = RunDir.open(str(path))
    assert run.result.run.seed == 3
    assert run.result.value == 0.86
    assert run.result.training.metric_history == [(500, 0.81), (1000, 0.86)]
    assert run.result.model_dump(mode="json") == plain_result(run__seed=3)
    assert run.settings == {"task": "sst2", "method": "smp", "sparsity": 0.9, "seed": 3, "init": "zero"}
    assert run.metrics == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]
    assert run.predictions == {
        "m": [{"label": 0, "prediction": 1}, {"label": 1, "prediction": 1}],
        "mm": [{"label": 2, "prediction": 2}],
    }
    assert run.has("mask.safetensors")
    assert not run.has("head.safetensors")


def test_each_kind_of_no_run_has_its_own_line(tmp_path: Path, make_run: MakeRun) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    unfinished = make_run(tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    damaged = make_run(tmp_path / "damaged")
    (damaged / "mask.safetensors").unlink()
    newer = make_run(tmp_path / "newer", schema=2)
    for path, message in (
        (tmp_path / "nowhere", "is not there"),
        (tmp_path / "file", "is not a run: it's a file"),
        (tmp_path / "empty", "is not a run: it holds neither settings.yaml nor result.json"),
        (unfinished, "is unfinished: it has no result.json"),
        (damaged, "is damaged: mask.safetensors is missing"),
        (newer, "upgrade smp"),
    ):
        with pytest.raises(RunError) as error:
            RunDir.open(path)
        assert str(error.value).startswith(f"{path} ")
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_a_folder_of_runs_lists_some_and_says_to_name_one(tmp_path: Path, make_run: MakeRun) -> None:
    for name in ("d", "b", "a", "c"):
        make_run(tmp_path / "many" / name)
    make_run(tmp_path / "one/x")
    with pytest.raises(RunError, match=r"4 runs \(a, b, c, …\); name one, such as .*many/a$"):
        RunDir.open(tmp_path / "many")
    with pytest.raises(RunError, match="the run x; name one"):
        RunDir.open(tmp_path / "one")


@pytest.mark.parametrize("line", ["{", "[1]", "", "null"])
def test_a_damaged_row_is_named_by_its_line(tmp_path: Path, make_run: MakeRun, line: str) -> None:
    path = make_run(tmp_path / "run")
    (path / "metrics.jsonl").write_text('{"step": 1}\n' + line + "\n")
    run = RunDir.open(path)
    if line == "":
        assert run.metrics == [{"step": 1}]
    else:
        with pytest.raises(RunError, match=r"damaged: metrics\.jsonl, line 2"):
            _ = run.metrics


# --- write


def test_what_is_written_is_plain_json_and_yaml(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "run")
    run.write_settings({"task": "sst2", "data_dir": Path("data"), "lr": 1e-05, "layers": (1, 2), "text": "é: ü"})
    run.append_metrics({"step": 1, "loss": 0.25})
    run.append_metrics({"step": 2, "loss": math.nan, "density": 0.5})
    run.write_predictions({"dev": [{"label": 0, "prediction": 1}], "mm": [{"label": 2.5, "prediction": math.inf}]})
    assert yaml.safe_load((run.path / "settings.yaml").read_text(encoding="utf-8")) == {
        "task": "sst2", "data_dir": "data", "lr": 1e-05, "layers": [1, 2], "text": "é: ü",
    }  # fmt: skip
    assert (run.path / "metrics.jsonl").read_text() == (
        '{"step": 1, "loss": 0.25}\n{"step": 2, "loss": null, "density": 0.5}\n'
    )
    assert (run.path / "predictions.jsonl").read_text() == (
        '{"split": "dev", "label": 0, "prediction": 1}\n{"split": "mm", "label": 2.5, "prediction": null}\n'
    )


def test_a_run_is_unfinished_until_its_result_is_written(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "run")
    run.write_settings({"seed": 0})
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0, :2] = True
    run.write_masks({"block.0.query": mask})
    assert run.sizes() == {
        "mask.safetensors": len((run.path / "mask.safetensors").read_bytes()),
        "settings.yaml": len("seed: 0\n"),
    }
    with pytest.raises(RunError, match="is unfinished"):
        RunDir.open(run.path)
    with pytest.raises(RunError, match="is unfinished"):
        _ = run.result
    run.write_result(as_result(files=run.sizes()))
    assert json.loads((run.path / "result.json").read_text()) == plain_result(files=run.sizes())
    assert torch.equal(RunDir.open(run.path).read_masks()["block.0.query"], mask)


def as_result(**changes: Any) -> Result:
    return parse_result(json.dumps(plain_result(**changes)))


@pytest.mark.parametrize("change", [{"metrics__accuracy": math.nan}, {"run__seed": "1"}, {"run__remaining": 0.2}])
def test_a_result_that_breaks_the_schema_is_not_written(tmp_path: Path, change: dict[str, Any]) -> None:
    run = RunDir.create(tmp_path, "run")
    with pytest.raises(ValueError):  # ours to mend, so no UserError
        run.write_result(Result.model_validate(plain_result(**change)))
    assert list(run.path.iterdir()) == []


def test_a_schema_error_is_a_fault_of_ours_at_writing() -> None:
    assert issubclass(SchemaError, ValueError)
    assert not issubclass(SchemaError, UserError)


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "run")
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,  # not contiguous
        "a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16, requires_grad=True),
    }
    run.write_tensors("head.safetensors", tensors)
    found = run.read_tensors("head.safetensors")
    assert sorted(found) == ["a", "b"]
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())
    with pytest.raises(ValueError, match="no file"):
        run.write_tensors("../head.safetensors", tensors)


def test_tensor_files_that_are_missing_or_damaged_are_one_line(tmp_path: Path, make_run: MakeRun) -> None:
    run = RunDir.open(make_run(tmp_path / "run"))
    with pytest.raises(RunError, match=r"damaged: head\.safetensors is missing"):
        run.read_tensors("head.safetensors")
    whole = tensor_file({"a": ("F32", [2], bytes(8))})
    for content in (b"", whole[:-1], whole[:12]):
        (run.path / "weights.safetensors").write_bytes(content)
        with pytest.raises(RunError, match=r"damaged: weights\.safetensors") as error:
            run.read_tensors("weights.safetensors")
        assert "\n" not in str(error.value)


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path, "run")
    run.write_settings({"seed": 0})
    run.append_metrics({"step": 1})
    run.write_tensors("head.safetensors", {"a": torch.ones(2)})
    run.write_masks({"m": torch.ones(3, 3, dtype=torch.bool)})
    run.write_result(as_result(files=run.sizes()))
    before = snapshot(run.path)

    def full(path: Path, *_: Any, **__: Any) -> None:
        with path.open("wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    def full_save(_: Any, path: Path, *__: Any) -> None:
        full(path)

    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(safetensors.torch, "save_file", full_save)
    monkeypatch.setattr("safetensors.numpy.save_file", full_save)
    writes: list[Callable[[], object]] = [
        lambda: run.write_settings({"seed": 1}),
        lambda: run.append_metrics({"step": 2}),
        lambda: run.write_tensors("head.safetensors", {"a": torch.zeros(2)}),
        lambda: run.write_masks({"m": torch.zeros(3, 3, dtype=torch.bool)}),
        lambda: run.write_result(as_result(run__seed=9, files={})),
    ]
    for write in writes:
        with pytest.raises(UserError, match="No space left"):
            write()
        assert snapshot(run.path) == before


# --- the rest


def test_digest_is_stable_under_key_order_and_sees_every_value() -> None:
    one = digest({"a": 1, "b": {"c": [1, 2], "d": None}})
    assert one == digest({"b": {"d": None, "c": [1, 2]}, "a": 1})
    # sha256 of {"a": 1, "b": {"c": [1, 2], "d": null}}, taken with sha256sum.
    assert one == "e8c0ad1b2625"
    others: list[dict[str, Any]] = [
        {"a": 2, "b": {"c": [1, 2], "d": None}},
        {"a": "1", "b": {"c": [1, 2], "d": None}},
        {"a": 1, "b": {"c": [2, 1], "d": None}},
        {"a": 1, "b": {"c": [1, 2], "d": False}},
        {"a": 1, "b": {"c": [1, 2]}},
    ]
    assert len({one, *map(digest, others)}) == 6
    with pytest.raises(ValueError):
        digest({"a": math.nan})


def test_reading_and_comparing_import_no_torch(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run")
    code = (
        "import sys; from smpcli.comparison.compare import compare; from smpcli.runs.rundir import RunDir; "
        f"path = {str(tmp_path)!r}; compare(path).to_json(); RunDir.open(path + '/run').result; "
        "print([name for name in ('torch', 'transformers', 'datasets', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
