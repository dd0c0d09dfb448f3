"""benchmarks/peers.py: its shared loop, what it counts, and what it finds loaded, with the peer that torch brings."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from commandline import PRUNABLE

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("peers", ROOT / "benchmarks" / "peers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_what_a_peer_keeps_is_counted_and_what_it_saves_is_loaded(
    peers: ModuleType, pico: Any, sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[text, int(label == "positive")] for text, label in sentiment.rows]
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"train": rows[:200], "dev": rows[200:], "max_length": 24}))
    job = {"data": str(data), "model": str(pico("bert")), "dropout": 0.0, "lr": 5e-3, "seed": 0}
    job |= {"sparsity": 0.9, "steps": 20, "batch": 16}
    # torch and transformers are here: no environment is to be made.
    monkeypatch.setattr(peers, "environment", lambda name, envs: Path(sys.executable))
    found = peers.peer("torch_prune", job, tmp_path, tmp_path)
    assert (found["kept"], found["prunable"]) == (round(0.1 * PRUNABLE), PRUNABLE)
    assert found["seconds_per_step"] > 0 and {"torch", "transformers"} == found["versions"].keys()
    plain, removed = found["loads"].values()
    assert removed == {"accuracy": found["accuracy"], "kept": found["kept"]}
    # torch.nn.utils.prune renames weights: stock classes find none, and begin anew.
    assert plain["kept"] > 0.99 * PRUNABLE
    rows_shown = peers.table([{"name": "torch_prune", "sparsity": 0.9, "seed": 0, **found}])
    assert f"10.0028% ({found['kept']:,})" in rows_shown[-1] and "(the same), 10.0%" in rows_shown[-1]


def test_a_peer_that_fails_says_why(
    peers: ModuleType, pico: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "environment", lambda name, envs: Path(sys.executable))
    with pytest.raises(SystemExit, match=r"torch_prune failed:[\s\S]*no-such-data"):
        peers.peer("torch_prune", {"data": str(tmp_path / "no-such-data")}, tmp_path, tmp_path)


def test_a_folder_that_stock_transformers_refuses_is_an_answer(peers: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps({"dev": [], "max_length": 24}))
    (tmp_path / "saved").mkdir()
    job = {"data": str(tmp_path / "data.json")}
    found = peers.reloaded(Path(sys.executable), str(tmp_path / "saved"), job)
    assert found.keys() == {"error"} and "saved" in found["error"]
    row = {"name": "x", "sparsity": 0.9, "accuracy": 0.5, "kept": 1, "prunable": 10, "seconds_per_step": 1.0}
    assert found["error"][:30] in peers.table([row | {"loads": {"save": found}}])[-1]


def test_every_peer_has_its_script_and_pins(peers: ModuleType) -> None:
    scripts = {path.stem.removeprefix("with_") for path in peers.SCRIPTS.glob("with_*.py")}
    assert scripts == set(peers.PEERS)
    assert all("==" in requirement for wanted in peers.PEERS.values() for requirement in wanted)
