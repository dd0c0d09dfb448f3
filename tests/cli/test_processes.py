"""One run on two processes (gloo), as `accelerate launch` starts them, against the same run on one."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commandline import make_run, run_process
from safetensors.torch import load_file

from smpcli import UserError
from smpcli.encoding.batches import LengthBuckets, training_loader
from smpcli.training import processes

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "sweeps.md"
METHODS = ("smp", "movement", "snip-momentum", "l0")
STEPS = 20
# Sums are made in another order, so float32 rounds otherwise. Losses are around 1, and differ by 1e-6 here.
LOSS_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def flags(pico: Callable[[str], Path], sentiment: Any) -> list[str]:
    """234 rows to train on: the last of an epoch's 30 batches has 2, and it's the same on both sides."""
    given = ["--task", str(sentiment.csv), "--model", str(pico("bert")), "--max-steps", str(STEPS)]
    # Of heads that are worth the same but for rounding either may fall, and that changes the loss: all may stay here.
    settings = ["structure=1", "max_length=24", "evaluations=2", "dropout=0", "precision=fp32", "weights_lr=1e-3"]
    # Two micro-batches a batch: processes exchange gradients after the last, as they do after the only one.
    settings += ["micro_batches=2"]
    return [*given, "--batch-size", "8", *(f"--set={setting}" for setting in settings)]


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(environment: dict[str, str], flags: list[str], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As docs/sweeps.md says it; the rest are Accelerate's defaults, and a port of our own.
    documented = "--multi_gpu --num_processes 2"
    assert f"accelerate launch {documented} -m smpcli prune" in DOCUMENT.read_text(encoding="utf-8")
    launch = [sys.executable, "-m", "accelerate.commands.launch", *documented.split()]
    launch += ["--main_process_port", str(port), "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", str(HERE / "ranks.py"), str(tmp_path), ",".join(METHODS)]
    paths = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    done = run_process([*launch, *flags, "--output", "together"], tmp_path, environment | {"PYTHONPATH": paths}).ok()
    # One of the two speaks and writes.
    assert done.err.count("training …") == len(METHODS) + 3
    made = [Path(line).name for line in done.out.splitlines() if line.startswith("together")]
    assert [name.removeprefix("sentiment-").partition("-0.9-")[0] for name in made] == [*METHODS]
    for method in METHODS:
        (together,) = tmp_path.glob(f"together/*-{method}-*")
        own = [part for part in flags if method != "snip-momentum" or part != "--set=structure=1"]
        alone = make_run("prune", "--method", method, *own, "--output", tmp_path / "alone")
        assert alone.name == together.name
        assert {path.name for path in together.iterdir()} == {path.name for path in alone.iterdir()}
        result = json.loads((together / "result.json").read_text())
        assert result["environment"]["processes"] == 2 and result["training"]["steps"] == STEPS

        first, second = (load_file(tmp_path / f"{method}-{rank}.safetensors") for rank in (0, 1))
        assert first.keys() == second.keys() and first
        assert all(torch.equal(first[name], second[name]) for name in first)

        if method == "l0":
            continue  # one process draws other gates
        pairs = list(zip(rows(together), rows(alone), strict=True))
        assert len(pairs) == STEPS
        assert max(abs(one["loss"] - other["loss"]) for one, other in pairs) < LOSS_TOLERANCE
        # The same metric but for one of the 26 dev examples.
        assert abs(pairs[-1][0]["accuracy"] - pairs[-1][1]["accuracy"]) < 1.5 / 26
    # Broken off after step 8, it went on from step 6, with each process's own gates and dropout.
    assert "goes on after step 6 of 20" in done.err
    (whole,), (resumed,) = (list(tmp_path.glob(f"{name}/*")) for name in ("uninterrupted", "again"))
    assert whole.name == resumed.name
    for name in ("mask.safetensors", "weights.safetensors", "metrics.jsonl", "predictions.jsonl"):
        assert (whole / name).read_bytes() == (resumed / name).read_bytes()


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_parts_of_a_batch_make_the_batch(micro_batches: int) -> None:
    from smpcli.encoding.batches import Encoded

    lengths = [3, 9, 4, 4, 7, 5, 8, 6, 3, 5, 4]
    ids = [[index + 1] * length for index, length in enumerate(lengths)]
    encoded = Encoded({"input_ids": ids}, torch.arange(11), {"input_ids": 0})
    whole, *orders = (LengthBuckets(encoded.lengths, 4, 0, 50, micro_batches) for _ in range(3))
    parts = [
        [
            [label for _, labels in batch for label in labels.tolist()]
            for batch in training_loader(encoded, orders[part], part, 2)
        ]
        for part in range(2)
    ]
    for batch, one, other in zip(whole, *parts, strict=True):
        if len(batch) == 4:
            assert sorted(one + other) == sorted(batch) and len(one) == len(other) == 2
        else:
            # Three can't be halved: both have them all, and the mean of the two means is theirs.
            assert one == other == batch


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(UserError, match="multiple of 3"):
        processes.check_batch(32, SimpleNamespace(num_processes=3))


def test_processes_that_nobody_joined_are_refused(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smpcli import device

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(device, "Accelerator", lambda **named: SimpleNamespace(num_processes=1))
    with pytest.raises(UserError, match="accelerate launch"):
        device.make_accelerator("auto")
