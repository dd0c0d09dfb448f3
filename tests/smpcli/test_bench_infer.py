"""smp bench infer: every contender at every shape, sparsity, size and speed side by side. No time is asserted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from smpcli import UserError, api
from smpcli.bench.infer import Contender, Report
from smpcli.main import app
from smpcli.modeling.layers import find_prunable


def report() -> Report:
    """Three rounds of four contenders at two shapes, with known medians."""
    times = {
        "dense, torch": [(4.0, 4.0, 9.0), (8.0, 8.0, 8.0)],
        "dense, onnxruntime int8": [(1.0, 1.0, 1.0), (8.0, 8.0, 8.0)],
        "a": [(2.0, 1.0, 2.0), (2.0, 2.0, 2.0)],
        "b": [(4.0, 4.0, 4.0), (1.0, 1.0, 1.0)],
    }
    contenders = [
        Contender(name, "export", name, 0.97, 1000, seconds={(1, 16): list(one), (8, 16): list(other)})
        for name, (one, other) in times.items()
    ]
    return Report(contenders, [1, 8], [16], threads=1, repeats=3)


def test_medians_speeds_and_verdict() -> None:
    made = report()
    a, b = made.contenders[2:]
    assert (made.speed(a, (1, 16)), made.speed(a, (8, 16))) == (2, 4)
    assert made.mean_speed(a) == pytest.approx(math.sqrt(8))
    assert made.fastest() is a  # b: 1 and 8 as well, and it comes later
    assert made.fastest((8, 16)) is b
    assert made.verdict() == [
        "fastest export here: a, 2.83 times dense torch over all shapes",
        "the fastest dense rival, dense, onnxruntime int8: 2.00 times",
        "but at batch 1, length 16: dense, onnxruntime int8, 4.00",
        "but at batch 8, length 16: b, 8.00",
    ]


def test_json_has_everything_of_each_shape() -> None:
    found = report().to_json()
    json.dumps(found, allow_nan=False)
    assert found["fastest"] == "a"
    shape = found["contenders"][3]["shapes"][1]
    assert shape == {"batch": 8, "length": 16, "latency": 1.0, "texts_per_second": 8.0, "speed": 8.0}


@pytest.fixture(scope="module")
def exported(pico: Any, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    run = api.prune(
        str(sentiment.csv), "smp", 0.9, model=str(pico("bert")), max_steps=2, batch_size=8, output=folder
    ).path
    return api.export(run, "compact", output=folder / "compact").path


def test_a_real_bench_has_all_contenders_and_shapes(exported: Path) -> None:
    arguments = ["bench", "infer", str(exported), "--batches", "1,2", "--lengths", "4", "--repeats", "2", "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    found = json.loads(result.stdout)
    names = [one["name"] for one in found["contenders"]]
    assert names == ["dense, torch", "dense, onnxruntime fp32", "dense, onnxruntime int8", "compact"]
    for one in found["contenders"]:
        assert [(shape["batch"], shape["length"]) for shape in one["shapes"]] == [(1, 4), (2, 4)]
        assert all(shape["latency"] > 0 for shape in one["shapes"])
        assert one["bytes"] > 0
    assert found["contenders"][0]["mean_speed"] == pytest.approx(1)
    assert [one["sparsity"] for one in found["contenders"]] == pytest.approx([0, 0, 0, 0.9], abs=1e-3)
    # Of the dense model: every weight four bytes, as many as the stock checkpoint holds.
    assert found["fastest"] == str(exported)


def test_bad_input_is_one_line(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--lengths takes whole numbers"):
        api.bench_infer(exported, lengths="16,x")
    with pytest.raises(UserError, match="--batches takes whole numbers"):
        api.bench_infer(exported, batches="0")
    with pytest.raises(UserError, match="is not an export that can be timed"):
        api.bench_infer(tmp_path)
    with pytest.raises(UserError, match="the model takes 40 tokens at most"):
        api.bench_infer(exported, lengths="128")


def test_a_contender_that_fails_is_named_with_its_reason(exported: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in exported.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"^broken can't be timed: damaged export .*model.safetensors is missing"):
        api.bench_infer(broken, batches="1", lengths="4", repeats=1)


def test_a_stock_folder_is_timed_and_its_zeros_are_counted(pico: Any, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(pico("bert"))
    for matrix in find_prunable(model, model.config):
        # Of 32 columns 25, of 48 columns 38.
        matrix.module.weight.data[:, torch.arange(matrix.module.weight.shape[1]) % 5 > 0] = 0
    model.save_pretrained(tmp_path / "stock")
    found = api.bench_infer(tmp_path / "stock", batches="1", lengths="4", repeats=1).to_json()["contenders"]
    assert [one["name"] for one in found][-1] == "stock"
    zeros, weights = 4 * 32 * 25 + 48 * 25 + 32 * 38, 4 * 32 * 32 + 2 * 32 * 48
    assert found[-1]["sparsity"] == pytest.approx(zeros / weights)
