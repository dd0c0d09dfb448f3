"""The same run makes the same bytes: done twice, and with its batches put together in other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from breaking import Broken, Watcher, break_off
from killing import left_by

from smpcli import prune


@pytest.mark.parametrize("kind", ["smp", "l0", "spans"])
def test_the_same_bytes_twice_and_with_data_workers(
    pico: Any, sentiment: Any, quiz: Path, tmp_path: Path, kind: str
) -> None:
    task = quiz if kind == "spans" else sentiment.csv
    given: dict[str, Any] = {"method": "movement" if kind == "spans" else kind, "evaluations": 3, "seed": 5}
    given |= {"max_length": 36, "stride": 8} if kind == "spans" else {}
    # More steps than an epoch has, so that a loader begins anew.
    given |= {"model": str(pico("bert")), "max_steps": 20, "batch_size": 16, "dropout": 0.1}
    found = []
    for number, workers in enumerate((0, 0, 1, 2) if kind == "smp" else (0, 2)):
        prune(str(task), output=tmp_path / str(number), data_workers=workers, **given)
        found.append({Path(name).name: content for name, content in left_by(tmp_path / str(number)).items()})
        text = found[-1].pop("settings.yaml").decode()
        assert f"data_workers: {workers}\n" in text
        found[-1]["settings"] = text.replace(f"data_workers: {workers}\n", "")
        # It lists sizes, of settings.yaml too.
        assert set(found[-1]) >= {"metrics.jsonl", "predictions.jsonl", "mask.safetensors", "result.json"}
    assert all(one == found[0] for one in found[1:])


def test_a_run_with_data_workers_resumes_without_them(pico: Any, sentiment: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {"task": str(sentiment.csv), "model": str(pico("bert")), "dropout": 0.1}
    given |= {"max_steps": 20, "batch_size": 16, "checkpoint_every": 5}
    whole = prune(output=tmp_path / "whole", **given).path
    with pytest.raises(Broken):
        prune(output=tmp_path / "broken", data_workers=2, progress=Watcher(12, break_off), **given)
    path = prune(output=tmp_path / "broken", resume=True, **given).path
    for name in ("mask.safetensors", "head.safetensors", "metrics.jsonl", "predictions.jsonl"):
        assert (path / name).read_bytes() == (whole / name).read_bytes()
