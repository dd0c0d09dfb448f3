"""A checkpoint says the same of a run whether its layers are stacked, as on an accelerator, or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from breaking import Broken, Watcher, break_off
from safetensors.torch import load_file

from smpcli import prune
from smpcli.training import session


def stack(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    assemble = session.assemble
    monkeypatch.setattr(session, "assemble", lambda *args, **how: assemble(*args, **{**how, "stacked": wanted}))


@pytest.mark.parametrize("method", ["smp", "movement", "snip-momentum"])
@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, True)])
def test_a_run_goes_on_wherever_it_began(
    pico: Any, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, before: bool, after: bool
) -> None:
    given: dict[str, Any] = {
        "model": str(pico("bert")),
        "max_steps": 10,
        "batch_size": 16,
        "evaluations": 2,
        "checkpoint_every": 2,
    }

    def run(folder: Path, **more: Any) -> Any:
        return prune(str(sentiment.csv), method, 0.8, output=folder, **given, **more)

    with monkeypatch.context() as patch:
        stack(patch, before)
        whole = run(tmp_path / "whole")
        with pytest.raises(Broken):
            run(tmp_path / "broken", progress=Watcher(7, break_off))
    with monkeypatch.context() as patch:
        stack(patch, after)
        watcher = Watcher()
        resumed = run(tmp_path / "broken", resume=True, progress=watcher)
    assert watcher.steps[0] == 7
    ours, theirs = (load_file(directory.path / "mask.safetensors") for directory in (whole, resumed))
    if before == after:
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        for name in ("predictions.jsonl", "weights.safetensors"):
            if (whole.path / name).exists():
                assert (whole.path / name).read_bytes() == (resumed.path / name).read_bytes()
    masks, others = whole.read_masks(), resumed.read_masks()
    differing = sum(int((masks[name] ^ others[name]).sum()) for name in masks)
    # Only narrow steps, which a stack doesn't take, and the order of sums tell them apart.
    assert differing <= sum(int(mask.sum()) for mask in masks.values()) // 10
