"""What a dry run says, against what a run then does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from smpcli import UserError, plan, prune
from smpcli.device import Compute
from smpcli.settings import resolve
from smpcli.training.needs import check_output, count_steps


@pytest.mark.parametrize(
    ("given", "examples", "steps"),
    [
        # 100 examples in batches of 32 are 4 a pass.
        ({"epochs": 3, "batch_size": 32}, 100, 12),
        ({"epochs": 0.5, "batch_size": 32}, 100, 2),
        ({"epochs": 2, "batch_size": 25}, 100, 8),
        ({"epochs": 0.001, "batch_size": 32}, 100, 1),
        ({"max_steps": 7}, 100, 7),
        ({}, 64, 6),
    ],
)
def test_steps_are_epochs_times_batches(sentiment: Any, given: dict[str, Any], examples: int, steps: int) -> None:
    assert count_steps(resolve(flags={"task": str(sentiment.csv), **given}), examples) == steps


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("smp", {}),
        ("smp", {"factored": False, "sparsity": 0.97}),
        ("movement", {}),
        ("soft-movement", {"factored": True}),
        ("magnitude", {"sparsity": 0.333}),
        ("snip-momentum", {}),
        ("platon", {"mask_every": 2}),
        ("obert", {}),
        ("dense", {}),
    ],
)
def test_a_dry_run_foretells_the_run(
    pico: Any, sentiment: Any, tmp_path: Path, method: str, given: dict[str, Any]
) -> None:
    options = {"model": str(pico("bert")), "max_steps": 2, "batch_size": 8, "output": tmp_path / "results", **given}
    found = plan(str(sentiment.csv), method, **options)
    assert not (tmp_path / "results").exists()
    result = json.loads((prune(str(sentiment.csv), method, **options).path / "result.json").read_text())
    weights = result["weights"]
    assert (found.total_weights, found.prunable_weights) == (weights["total"], weights["prunable"])
    assert (found.kept_weights, found.trained_weights) == (weights["kept"], weights["trained"])
    assert found.steps == result["training"]["steps"] == 2
    assert found.train_examples == result["data"]["train"]
    assert found.dev_examples == result["data"]["dev"]["dev"]
    assert found.data is not None
    assert found.data.items() <= result["data"].items()
    sides = [result["data"]["labels"]["train"], result["data"]["labels"]["dev"]["dev"]]
    for label in ("negative", "positive"):
        assert sum(side[label] for side in sides) == sum(row[1] == label for row in sentiment.rows)
    # 12 matrices: 8 of 32 x 32, 4 of 32 x 48; factored scores have one more a row and a column.
    scores = 0 if method in ("magnitude", "snip-momentum", "platon", "obert", "dense") else 8 * 32 * 32 + 4 * 32 * 48
    factored = given.get("factored", method == "smp")
    assert found.learned_scores == scores + (8 * 64 + 4 * 80 if factored else 0)


def test_a_run_that_a_method_has_no_memory_for_is_refused_with_nothing_written(
    pico: Any, sentiment: Any, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": str(pico("bert")), "max_steps": 2, "block": 64, "output": tmp_path / "results"}
    # 14,336 weights with 64 numbers of 4 bytes: 3.67 MB; of 16 as well, 32 divides 32 x 48.
    for call in (plan, prune):
        with pytest.raises(
            UserError, match=r"0\.00367 GB for 14,336 weights, more than fisher_gb=0\.002; give block=32"
        ):
            call(str(sentiment.csv), "obert", fisher_gb=0.002, **given)
        assert not (tmp_path / "results").exists()


def test_memory_grows_with_what_is_trained_and_with_the_batch(pico: Any, sentiment: Any) -> None:
    def memory(method: str, **given: Any) -> int:
        found = plan(str(sentiment.csv), method, model=str(pico("bert")), **given).memory_bytes
        assert found is not None
        return found

    # Frozen weights need neither gradient nor moments; movement trains scores and weights.
    assert memory("smp", factored=False) < memory("movement")
    assert memory("magnitude") < memory("movement")
    # 14,336 prunable weights with a running score, or a mean and an uncertainty, and with a window's sum beside them.
    kept = [memory("snip-momentum"), memory("platon"), memory("platon", mask_every=2)]
    assert [found - memory("magnitude") for found in kept] == [4 * 14_336 * number for number in (1, 2, 3)]
    assert memory("smp", batch_size=64) > memory("smp", batch_size=32) > memory("smp", batch_size=32, max_length=16)


def test_a_model_that_is_not_at_hand_is_not_fetched(sentiment: Any) -> None:
    found = plan(str(sentiment.csv), model="no-such-owner/no-such-model", max_steps=3)
    assert found.steps == 3
    assert (found.total_weights, found.memory_bytes) == (None, None)


def test_the_embedded_model_s_weights() -> None:
    # MiniLM: 6 layers, 384 wide, 1,536 inside: 6 * (4 * 384^2 + 2 * 384 * 1,536) = 10,616,832 prunable weights.
    found = plan("sst2", sparsity=0.9)
    assert found.prunable_weights == 10_616_832
    assert found.kept_weights == 1_061_683
    assert (found.train_examples, found.dev_examples) == (67_349, 872)
    # Two epochs of 67,349 / 64 batches, the last one smaller.
    assert found.steps == 2 * 1_053


def test_an_output_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file is a file; choose another place with --output"):
        check_output(tmp_path / "file" / "results")
    check_output(tmp_path / "new" / "results")
    assert not (tmp_path / "new").exists()


def test_what_a_run_computes_with_in_words(sentiment: Any, pico: Any) -> None:
    gpu = Compute("cuda:0", "NVIDIA H100 80GB HBM3", "bf16", auto=True, threads=16, processes=4)
    assert str(gpu) == "device cuda:0 (NVIDIA H100 80GB HBM3), precision bf16 (auto), 16 threads, 4 processes"
    torch.set_num_threads(1)
    given: dict[str, Any] = {"model": str(pico("bert")), "device": "cpu"}
    assert str(plan(str(sentiment.csv), precision="bf16", **given).compute) == "device cpu, precision bf16, 1 thread"
    chosen = plan(str(sentiment.csv), **given).compute
    # By what the processor itself says.
    units = "amx_bf16" in Path("/proc/cpuinfo").read_text()
    assert (chosen.precision, chosen.auto) == ("bf16" if units else "fp32", True)
