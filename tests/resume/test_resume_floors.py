"""Methods whose masks stand, or are drawn once, go on after a break as if there had been none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from breaking import Broken, Watcher, break_off

from smpcli import prune
from smpcli.training import session


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("gmp", {"prunings": 3, "weights_lr": 1e-2}),
        ("gmp", {"prunings": 0, "allocation": "L"}),
        ("random", {}),
        ("wanda", {"head": "classifier"}),
    ],
)
def test_a_run_that_is_broken_off_goes_on_to_the_same_bytes(
    pico: Any,
    sentiment: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    more: dict[str, Any],
    stacked: bool,
) -> None:
    assemble = session.assemble
    monkeypatch.setattr(session, "assemble", lambda *args, **how: assemble(*args, **{**how, "stacked": stacked}))
    given: dict[str, Any] = {"model": str(pico("bert")), "max_steps": 12, "batch_size": 16, "evaluations": 3, **more}

    def run(folder: Path, **how: Any) -> Any:
        return prune(str(sentiment.csv), method, 0.8, output=folder, checkpoint_every=1, **given, **how)

    whole = run(tmp_path / "whole")
    with pytest.raises(Broken):
        # Between two prunings of gmp's three, from step 2.4 to 9.6.
        run(tmp_path / "broken", progress=Watcher(7, break_off))
    watcher = Watcher()
    resumed = run(tmp_path / "broken", resume=True, progress=watcher)
    assert watcher.steps[0] == 7
    for path in whole.path.iterdir():
        if path.name not in ("result.json", "settings.yaml"):
            assert path.read_bytes() == (resumed.path / path.name).read_bytes(), path.name
