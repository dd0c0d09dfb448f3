"""On a GPU: the masks of a CPU, no waiting within a step. Everywhere: benchmarks/gpu.py, which checks both, runs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from pruners.masks import selection
from smpcli.bench.shapes import random_checkpoint
from smpcli.bench.train import Case, Contestant, Entrant
from smpcli.device import make_accelerator
from smpcli.encoding.batches import training_order
from smpcli.settings import resolve
from smpcli.tasks.data import load_data
from smpcli.training.session import prepare

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up.
    sys.modules["gpu"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_script_runs_on_a_cpu(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--device", "cpu", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["failed"] == []
    assert done.stdout.splitlines()[-1] == "all well"
    # Six matrices in each of two blocks, two kinds of scores, two densities.
    assert all((one["masks"], one["bits"]) == (48, 0) for one in found["masks"])
    assert {one["name"].split()[0] for one in found["masks"]} == {
        "smp",
        "movement",
        "magnitude",
        "soft-movement",
        "l0",
    }
    assert found["waits"] == "needs CUDA"
    assert [row["method"] for row in found["steps"]] == ["dense", "smp", "full sort"]
    assert all(row["seconds"] > 0 and row["kernels"] is None for row in found["steps"])
    assert found["steps"][-1]["to_full_sort"] == 1
    assert (found["runs"]["runs"], found["runs"]["finished"]) == (1, 1)


def test_a_part_that_fails_leaves_the_others(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(part: str, options: Any, device: torch.device) -> tuple[Any, bool]:
        if part == "masks":
            raise RuntimeError("no kernel image")
        return {"rows": part}, part != "waits"

    monkeypatch.setattr(gpu, "measure", measure)
    file = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--no-runs", "--json", str(file)])
    assert gpu.main() == 1
    found = json.loads(file.read_text(encoding="utf-8"))
    assert "no kernel image" in found["masks"]
    assert found["steps"] == {"rows": "steps"} and "runs" not in found
    assert found["failed"] == ["masks", "waits"]
    assert capsys.readouterr().out.splitlines()[-1] == "not as it should be: masks, waits"


@pytest.mark.parametrize("planted", ["tie", "count"])
def test_a_wrong_mask_is_a_fault(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    right = selection.RowTopK.mask

    def wrong(
        self: Any, rows: torch.Tensor, kept: torch.Tensor, fewer: torch.Tensor, least: int, most: int, *more: Any
    ) -> torch.Tensor:
        if planted == "count":
            return right(self, rows, kept - 1, fewer + 1, max(0, least - 1), most, *more)
        # Of equal scores the last ones, not the first.
        return right(self, rows.flip(1), kept, fewer, least, most).flip(1)

    monkeypatch.setattr(selection.RowTopK, "mask", wrong)
    masks = [
        gpu.choose("movement", {"structure": 1.0}, gpu.layers_of(64, 2, CPU), "ties", 0.1, stacked)
        for stacked in (True, False)
    ]
    made = gpu.Comparison("movement", exact=planted == "tie")
    made.add(*masks)
    assert made.fault
    assert made.totals == (1 if planted == "count" else 0)
    assert "FAULT" in str(made)


def test_the_yardstick_is_a_mask_by_sorting(gpu: ModuleType) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 4)
    masked = gpu.FullSortLinear(linear, 0.25)
    inputs = torch.randn(3, 6)
    masked(inputs).square().sum().backward()
    lowest = masked.scores.detach().flatten().sort().values[-6]
    weight = (linear.weight * (masked.scores >= lowest)).detach().requires_grad_()
    nn.functional.linear(inputs, weight, linear.bias).square().sum().backward()
    # eq. 3: the gradient of the scores is that of W' times W, of those that are pruned, too.
    assert torch.allclose(masked.scores.grad, weight.grad * linear.weight)
    assert int((weight != 0).sum()) == 6


@pytest.mark.filterwarnings("ignore")
def test_places_where_a_step_waits_are_named(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the debug mode of CUDA: its warning, raised from one of our lines."""
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def asking(*args: object, **more: object) -> None:
        warnings.warn("called a synchronizing CUDA operation (Triggered internally at somewhere)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    class Asking(Entrant):
        def step(self, batch: Any) -> None:
            selection.top_k_mask(torch.ones(3), 1)

    monkeypatch.setattr(selection, "_top_k_numpy", asking)
    found = gpu.waits_of(Asking(range(20), CPU))
    [(place, times)] = found["steps"].items()
    assert times == 3
    assert "pruners/masks/selection.py:" in place and "tests/test_gpu.py:" in place
    assert found["batches"] == {}
    assert modes == ["warn", "default", "warn", "default"]


@pytest.mark.gpu
@needs_cuda
def test_masks_are_those_of_a_cpu(gpu: ModuleType) -> None:
    """Bit for bit wherever no sum of floats decides, and all but a hundredth where one does; totals always."""
    found = gpu.compare_masks(torch.device("cuda"), quick=False)
    assert [str(one) for one in found if one.fault] == []


@pytest.mark.gpu
@needs_cuda
def test_the_kernels_of_the_selection_are_confirmed() -> None:
    from pruners.masks.radix import confirmed

    assert confirmed(torch.device("cuda"))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(
    "method", "dense smp movement magnitude soft-movement snip-momentum platon obert l0 gmp random".split()
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_waits_for_nothing(method: str, precision: str) -> None:
    with random_checkpoint("bert-tiny") as folder:
        one = Contestant(method, Case(folder, 8, 12, precision, "cuda", 0.9, {}))
    one.turn()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in islice(iter(one.batches), 3):
            one.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    one.check()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("name", ["bert-mlm", "bert", "roberta", "distilbert", "gpt2", "llama"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_padded_texts_are_not_waited_for(pico: Any, sentiment: Any, name: str, precision: str) -> None:
    flags = {"task": str(sentiment.words), "method": "smp", "model": str(pico(name)), "sparsity": 0.8}
    settings = resolve(flags=flags | {"precision": precision, "device": "cuda", "batch_size": 16, "bucket_window": 1})
    session = prepare(settings, load_data(settings.task, None), make_accelerator("cuda"))
    training = session.training()
    training.model.train()
    batches = enumerate(iter(session.batches(training_order(settings, session.train_set))))
    # Only the first steps ask for memory.
    for step, batch in islice(batches, 4):
        training.step(step, batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, batch in islice(batches, 4):
            training.step(step, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    training.health.read()


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("method", ["dense", "smp", "movement"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_replayed_passes_train_as_those_carried_out(pico: Any, sentiment: Any, method: str, precision: str) -> None:
    """Eight steps of texts of several lengths, the same with graphs and without."""
    losses: list[list[float]] = []
    for graph in ("auto", "off"):
        flags = {"task": str(sentiment.csv), "method": method, "model": str(pico("bert")), "batch_size": 16}
        flags |= {"sparsity": 0.8} if method != "dense" else {}
        flags |= {"precision": precision, "device": "cuda", "dropout": 0.0, "graph": graph, "bucket_window": 1}
        settings = resolve(flags=flags)
        torch.manual_seed(0)
        session = prepare(settings, load_data(settings.task, None), make_accelerator("cuda"))
        training = session.training()
        training.model.train()
        losses.append([])
        for step, batch in islice(enumerate(iter(session.batches(training_order(settings, session.train_set)))), 8):
            training.step(step, batch)
            training.health.read()
            losses[-1].append(training.health.loss)
        assert training.passes.note is None
        assert bool(training.passes.shapes) == (graph == "auto")
    assert losses[0] == pytest.approx(losses[1], rel=2e-2 if precision == "bf16" else 1e-3)


@pytest.mark.gpu
@needs_cuda
def test_the_debug_mode_sees_a_wait(gpu: ModuleType) -> None:
    found: Counter[str] = Counter()
    number = torch.ones((), device="cuda")
    with gpu.noting_waits(found):
        float(number)
    assert sum(found.values()) == 1
