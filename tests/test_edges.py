"""Cases at the edge, of all rooms: extreme scores, damaged models, settings that can't be meant."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from pruners.errors import PrunerError
from pruners.masks.allocation import proportional_counts
from pruners.masks.layer import LayerStatistics, MaskedLayer
from pruners.methods import METHODS
from pruners.smp import SMP
from pruners.soft_movement import SoftMovement
from smpcli import UserError, plan, prune
from smpcli.modeling.heads import TaskModel, set_prototypes


@pytest.mark.parametrize(("importance", "kept"), [([1.0, 0.0, 0.0], 20), ([0.0, 0.0, 0.0], 10)])
def test_smp_s_of_scores_whose_sigmoid_is_0(importance: list[float], kept: int) -> None:
    counts = proportional_counts(importance, ["query"] * 3, [10] * 3, kept)
    assert sum(counts) == kept
    assert counts == ([10, 5, 5] if importance[0] else [4, 3, 3])


@pytest.mark.parametrize("level", [-1000.0, 1000.0])
def test_soft_movement_reports_a_threshold_of_extreme_scores(level: float) -> None:
    layer = MaskedLayer("a", "a", torch.nn.Linear(3, 2))
    layer.learn_scores(torch.full((2, 3), level), factored=False)
    assert SoftMovement().report([layer])["tau"] == (0.0 if level < 0 else 1.0)


def test_a_matrix_without_importance_starts_at_0() -> None:
    layer = MaskedLayer("a", "a", torch.nn.Linear(3, 2))
    assert torch.equal(SMP().start(layer, LayerStatistics(torch.zeros(3))), torch.zeros(2, 3))


@pytest.mark.parametrize(
    "body", ["    title = 'T'", "    name = 'odd'", "    name = 'odd'\n    title = 'T'\n    Settings = dict"]
)
def test_a_plugin_class_that_lacks_something_is_named(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "smp_odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smp-odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[smp.pruners]\nodd = odd_pruner:Odd\n")
    (tmp_path / "odd_pruner.py").write_text(f"from pruners import Pruner\nclass Odd(Pruner):\n{body}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "odd_pruner", raising=False)
    with pytest.raises(PrunerError, match=r"smp-odd 1\.0"):
        METHODS.load("odd")


def test_a_class_that_is_not_among_the_examples_has_an_empty_prototype(pico: Any) -> None:
    backbone = AutoModelForSequenceClassification.from_pretrained(pico("bert"), num_labels=3)
    model = TaskModel(backbone, "prototype", {"classifier.weight", "classifier.bias"})
    ids = torch.randint(5, 60, (8, 6))
    set_prototypes(model, [({"input_ids": ids}, torch.tensor([0, 1] * 4))], 4.0)
    assert torch.isfinite(backbone.classifier.weight).all() and torch.isfinite(backbone.classifier.bias).all()


@pytest.mark.parametrize("damage", ["cut", "names", "sizes"])
def test_a_checkpoint_without_the_encoder_s_weights_is_refused(
    pico: Any, sentiment: Any, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(pico("bert"), folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:2000])
    elif damage == "names":
        save_file({f"module.x.{n}": t for n, t in load_file(weights).items()}, weights, {"format": "pt"})
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "intermediate_size": 64}))
    with pytest.raises(UserError):
        prune(str(sentiment.csv), model=str(folder), max_steps=1, output=tmp_path / "results")


def test_a_length_beyond_the_model_s_positions_is_refused(pico: Any, tmp_path: Path) -> None:
    task = tmp_path / "long.csv"
    rows = [f"{'the film was ' * 30}{word},{label}" for word, label in [("good", "p"), ("bad", "n")] * 20]
    # The texts differ, so that some can be kept for evaluation.
    task.write_text("text,label\n" + "".join(f"{'a ' * i}{row}\n" for i, row in enumerate(rows)))
    with pytest.raises(UserError, match="max_length"):
        prune(str(task), model=str(pico("bert")), max_steps=1, output=tmp_path / "results")


@pytest.mark.parametrize(
    ("method", "given"), [("dense", {"weights_lr": 1e6}), ("smp", {"scores_lr": 1e38})], ids=["loss", "scores"]
)
def test_training_that_diverges_is_a_person_s_business(
    pico: Any, sentiment: Any, tmp_path: Path, method: str, given: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r"learning rate|lr"):
        prune(
            str(sentiment.csv), method, model=str(pico("bert")), max_steps=20, batch_size=8, output=tmp_path, **given
        )


@pytest.mark.parametrize("key", ["weights_lr", "head_scale", "penalty"])
def test_an_infinite_setting_is_refused(pico: Any, sentiment: Any, tmp_path: Path, key: str) -> None:
    infinite: dict[str, Any] = {key: math.inf}
    with pytest.raises(UserError, match=key):
        prune(str(sentiment.csv), model=str(pico("bert")), max_steps=1, output=tmp_path, **infinite)


@pytest.mark.parametrize(
    ("task", "model", "method", "given"),
    [("words", "bert-mlm", "movement", {}), ("csv", "bert", "smp", {"head": "classifier"})],
)
def test_a_dry_run_foretells_other_heads(
    pico: Any, sentiment: Any, tmp_path: Path, task: str, model: str, method: str, given: dict[str, Any]
) -> None:
    options = {"model": str(pico(model)), "max_steps": 1, "output": tmp_path / "results", **given}
    found = plan(str(getattr(sentiment, task)), method, **options)
    path = prune(str(getattr(sentiment, task)), method, **options).path
    weights = json.loads((path / "result.json").read_text())["weights"]
    assert (found.total_weights, found.trained_weights) == (weights["total"], weights["trained"])
