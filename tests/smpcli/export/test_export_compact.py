"""Compact, sparse and ONNX exports: the pruned model's logits from smaller files, for each BERT-like architecture"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from smpcli import UserError, export, prune
from smpcli.evaluation.recompute import reopen
from smpcli.export import compact, sparse
from smpcli.export.loading import load
from smpcli.export.onnx import GraphModel, write_graph
from smpcli.export.stock import take_apart
from smpcli.main import app
from smpcli.modeling.backbone import load_tokenizer
from smpcli.modeling.build import build_model
from smpcli.modeling.compact_model import CompactModel
from smpcli.modeling.heads import TaskModel
from smpcli.modeling.layers import find_prunable
from smpcli.modeling.sparse_model import TOKENS, SparseModel
from smpcli.reporting import guarded
from smpcli.settings import resolve

HEADS = [
    ("bert", "prototype"),
    ("bert-mlm", "words"),
    ("roberta", "words"),
    ("roberta", "classifier"),
    ("distilbert", "words"),
    ("distilbert", "classifier"),
    ("electra", "words"),
    ("electra", "classifier"),
]


def pruned(pico: Any, sentiment: Any, name: str, head: str, density: float = 0.06) -> tuple[TaskModel, Any]:
    """A stock model with random masks, and its tokenizer."""
    task = str(sentiment.words if head == "words" else sentiment.csv)
    settings = resolve(flags={"task": task, "model": str(pico(name)), "head": head})
    tokenizer = load_tokenizer(settings.run.model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(settings.run.spec, settings.task, ["negative", "positive"], tokenizer).eval()
        for matrix in find_prunable(model.backbone, model.config):
            matrix.module.weight.data *= torch.rand_like(matrix.module.weight) < density
    return model, tokenizer


def texts(tokenizer: Any) -> list[dict[str, Tensor]]:
    """Batches of several shapes, with padding and, in one text, the mask token."""
    mask = tokenizer.mask_token
    batches = [
        ["the film was great", f"the film was {mask} with a dull script and an awful ending", "good"],
        ["boring"],
        ["a film of the role", "it was a superb story"],
    ]
    return [dict(tokenizer(batch, padding=True, return_tensors="pt")) for batch in batches]


def assert_same(model: Callable[..., Tensor], other: Callable[..., Tensor], tokenizer: Any) -> None:
    with torch.no_grad():
        for inputs in texts(tokenizer):
            torch.testing.assert_close(other(**inputs), model(**inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_smaller_and_the_same_logits_in_torch_sparse_and_onnxruntime(
    pico: Any, sentiment: Any, tmp_path: Path, name: str, head: str
) -> None:
    model, tokenizer = pruned(pico, sentiment, name, head)
    architecture, tensors, area = take_apart(model)
    dense = sum(matrix.module.weight.numel() for matrix in find_prunable(model.backbone, model.config))
    kept = sum(int((m.module.weight != 0).sum()) for m in find_prunable(model.backbone, model.config))
    assert kept / 2 < area < 0.9 * dense
    small = CompactModel(architecture, tensors)
    assert_same(model, small, tokenizer)
    assert_same(model, CompactModel(architecture, tensors, all_positions=True), tokenizer)
    for everywhere in (True, False):
        on_kernels = SparseModel(small)
        for block in on_kernels.matrices:
            for matrix in block.values():
                matrix.sparse_at = dict.fromkeys(TOKENS, everywhere)
        assert_same(model, on_kernels, tokenizer)
        on_kernels.columns_at = dict.fromkeys(TOKENS, False)
        assert_same(model, on_kernels, tokenizer)
    write_graph(small, tmp_path / "model.onnx", "fp32")
    assert_same(model, GraphModel(tmp_path / "model.onnx", 1), tokenizer)


def test_choices_of_kernels_are_taken_over_and_damaged_ones_measured_anew(pico: Any, sentiment: Any) -> None:
    model, _ = pruned(pico, sentiment, *HEADS[0])
    architecture, tensors, _ = take_apart(model)
    small = CompactModel(architecture, tensors)
    first = SparseModel(small)
    for block in first.matrices:
        for index, matrix in enumerate(block.values()):
            matrix.sparse_at = {tokens: tokens > 10 * index for tokens in TOKENS}
    first.columns_at = {tokens: tokens == TOKENS[0] for tokens in TOKENS}
    second = SparseModel(small)
    second.choose(first.choices())
    assert second.choices() == first.choices()
    assert second.columns_at == first.columns_at
    asked: list[bool] = []
    broken: list[Any] = [None, [], {}, {"matrices": [], "columns": []}, {"matrices": 3, "columns": None}, "x"]
    for count, damaged in enumerate(broken, 1):
        third = SparseModel(small)
        third.measure = lambda: asked.append(True)  # type: ignore[method-assign]
        third.choose(damaged)
        assert len(asked) == count


def test_no_relative_positions(pico: Any, sentiment: Any) -> None:
    model, _ = pruned(pico, sentiment, "mpnet", "words")
    with pytest.raises(UserError, match=r"model type 'mpnet' can't be made compact: .*--format hf"):
        take_apart(model)


def test_the_compressed_rows_are_the_matrices() -> None:
    weight = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0]])
    tensors = {"blocks.0.up.weight": weight, "blocks.0.norm1.weight": torch.ones(3), "head.out.weight": weight}
    stored = sparse.compress(tensors)
    assert stored["blocks.0.up.weight.values"].tolist() == [2, 1, 3]
    assert stored["blocks.0.up.weight.columns"].tolist() == [1, 0, 2]
    assert stored["blocks.0.up.weight.starts"].tolist() == [0, 1, 1, 3]
    found = sparse.expand(stored)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)


@pytest.fixture(scope="module")
def run(pico: Any, sentiment: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prune(
        str(sentiment.csv),
        "smp",
        0.9,
        model=str(pico("bert")),
        structure=0.3,
        max_steps=30,
        batch_size=16,
        output=tmp_path_factory.mktemp("runs"),
    ).path


@pytest.fixture(scope="module")
def exports(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every format of the run, verified in processes of their own."""
    folder = tmp_path_factory.mktemp("exports")
    return {
        "compact": export(run, "compact", output=folder / "compact"),
        "bf16": export(run, "compact", output=folder / "bf16", precision="bf16"),
        "sparse": export(run, "sparse", output=folder / "sparse"),
        "onnx": export(run, "onnx", output=folder / "onnx"),
        "int8": export(run, "onnx", output=folder / "int8", precision="int8"),
        "thin": export(run, "compact", output=folder / "thin", drop_rows_below=3),
    }


def test_exports_are_the_run_and_say_so(run: Path, exports: dict[str, Any]) -> None:
    model = reopen(run)
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    inputs, _ = model.dev["dev"].collate(range(8))
    with torch.no_grad():
        expected = model.model(**inputs)
    for name in ("compact", "sparse", "onnx"):
        made = exports[name]
        assert made.max_difference <= 1e-5
        assert made.examples == len(model.dev["dev"])
        assert made.about["before"] == made.about["after"] == metrics["accuracy"]
        torch.testing.assert_close(load(made.path)(**inputs), expected, rtol=0, atol=1e-5)
        assert json.loads((made.path / "compact.json").read_text())["metrics"] == metrics
    for name in ("bf16", "int8"):
        found = load(exports[name].path)(**inputs)
        assert exports[name].max_difference > 1e-5
        assert float((found - expected).abs().max()) <= exports[name].max_difference + 1e-6
        torch.testing.assert_close(found, expected, rtol=0, atol=0.3)
    assert exports["bf16"].bytes < exports["compact"].bytes
    assert exports["int8"].bytes < exports["onnx"].bytes


def test_structure_leaves_no_more_area_than_it_says(exports: dict[str, Any]) -> None:
    # At most 30 % of the channels; each query without a weight may cost a head one row more, of 144 a block.
    assert exports["compact"].about["area"] <= 0.3 + 2 / 144


def test_thin_rows_are_dropped_and_their_cost_is_measured(run: Path, exports: dict[str, Any]) -> None:
    """The reference: the stock model, every row of fewer than three weights zeroed."""
    reopened = reopen(run)
    count = 0
    for matrix in find_prunable(reopened.model.backbone, reopened.model.config):
        for row in matrix.module.weight.data:
            if 0 < len(row.nonzero()) < 3:
                row.zero_()
                count += 1
    made = exports["thin"]
    assert made.about["dropped_rows"] == count > 0
    assert made.about["area"] < exports["compact"].about["area"]
    dev = reopened.dev["dev"]
    inputs, labels = dev.collate(range(len(dev)))
    with torch.no_grad():
        expected = reopened.model(**inputs)
    torch.testing.assert_close(load(made.path)(**inputs), expected, rtol=0, atol=1e-5)
    assert made.about["after"] == pytest.approx(float((expected.argmax(1) == labels).double().mean()))
    assert f"dropped {count} thin rows: accuracy" in made.remarks[1]


def test_an_export_that_differs_is_refused_and_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(model: TaskModel) -> Any:
        architecture, tensors, area = take_apart(model)
        tensors["head.out.bias"] = tensors["head.out.bias"] + 0.001
        return architecture, tensors, area

    monkeypatch.setattr(compact, "take_apart", spoilt)
    with pytest.raises(UserError, match=r"export refused: its logits differ from the run's by 1\.\d+e-03"):
        export(run, "compact", output=tmp_path / "there")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "compact.json").write_text("{"), "compact.json isn't JSON"),
        (lambda folder: (folder / "compact.json").write_text("{}"), "don't fit each other"),
        (
            lambda folder: (folder / "smp.json").write_text('{"format": "other"}'),
            "nor an export of smp",
        ),
        (lambda folder: save_file({}, folder / "model.safetensors"), "don't fit each other"),
    ],
)
def test_a_damaged_export_is_one_line(
    exports: dict[str, Any], tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in exports["compact"].path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    load(folder)
    spoil(folder)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_what_is_written_is_safetensors_and_json_alone(exports: dict[str, Any]) -> None:
    names = {file.name for file in exports["compact"].path.iterdir()}
    assert names == {"compact.json", "smp.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    tensors = load_file(exports["compact"].path / "model.safetensors")
    assert sum(t.numel() for name, t in tensors.items() if name.endswith("weight") and "blocks" in name) > 0


def test_options_of_another_format_are_refused(run: Path, tmp_path: Path) -> None:
    for format, options, message in (
        ("hf", {"drop_rows_below": 3}, "--drop-rows-below is for --format compact, sparse or onnx, not for hf"),
        ("hf", {"precision": "bf16"}, "--precision bf16 is for --format compact, not for hf"),
        ("compact", {"precision": "int8"}, "--precision int8 is for --format onnx, not for compact"),
        ("onnx", {"precision": "int9"}, "unknown precision 'int9'; did you mean 'int8'"),
    ):
        with pytest.raises(UserError, match=message):
            export(run, format, output=tmp_path / "x", **options)


def test_without_the_extra_a_line_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("smpcli.export.onnx"), "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package onnx and onnxruntime; pip install 'smp-prune\[onnx\]'"):
        export(run, "onnx", output=tmp_path / "x")


def test_the_command_prints_size_area_and_metric(run: Path, tmp_path: Path) -> None:
    arguments = ["export", str(run), "--format", "compact", "--drop-rows-below", "3", "--output", str(tmp_path / "x")]
    result = CliRunner().invoke(app, arguments)
    assert guarded(lambda: result.exit_code) == 0
    assert result.stdout.strip() == str(tmp_path / "x")
    assert "of the dense matrices' area is left" in result.stderr
    assert "thin rows: accuracy" in result.stderr
