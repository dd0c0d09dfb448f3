"""Verification sees what is wrong with an export, and nothing of it is left."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smpcli import UserError, export
from smpcli.evaluation.recompute import reopen
from smpcli.export import hf, mask
from smpcli.export.formats import Exported
from smpcli.export.verify import staged, verify
from smpcli.files import write_text
from smpcli.yaml_text import read_yaml

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def made(finished: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(finished(), "hf", output=tmp_path_factory.mktemp("made") / "folder")


def test_what_is_verified_is_what_was_written(finished: MakeRun, made: Exported) -> None:
    """Weights or tokenizer are changed in the folder: the metric and the logits, of a new process, tell."""
    run, folder = reopen(finished()), made.path
    sound = made.verified
    assert sound is not None
    assert sound.metrics == run.directory.result.metrics and sound.metric == sound.recorded
    assert sound.difference <= 1e-5 and sound.examples == len(run.dev["dev"])

    weights = load_file(folder / "model.safetensors")
    turned = {**weights, **{name: -tensor for name, tensor in weights.items() if name.startswith("classifier.")}}
    inputs, _ = run.dev["dev"].collate(range(len(run.dev["dev"])))
    with torch.no_grad():
        # The logits change their sign, so twice the largest of them.
        expected = 2 * float(run.model(**inputs).abs().max())
    try:
        save_file(turned, folder / "model.safetensors", {"format": "pt"})
        measured = verify(folder, run, tolerance=None)
        assert measured.difference == pytest.approx(expected, rel=1e-3)
        # Two classes, each answer turned round.
        assert measured.metric == pytest.approx(1 - measured.recorded)
    finally:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
    content = json.loads(tokenizer)
    ids = content["model"]["vocab"]
    ids["movie"], ids["film"] = ids["film"], ids["movie"]
    try:
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(UserError, match="export refused: its logits differ from the run's by"):
            verify(folder, run)
    finally:
        (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")


@pytest.mark.usefixtures("verified_here")
def test_nan_is_refused(finished: MakeRun, made: Exported) -> None:
    run, folder = reopen(finished()), made.path
    weights = load_file(folder / "model.safetensors")
    try:
        broken = {**weights, "classifier.bias": torch.full_like(weights["classifier.bias"], torch.nan)}
        save_file(broken, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=r"classifier\.bias holds NaN or infinity"):
            verify(folder, run)
        # Finite weights whose products aren't.
        broken = {**weights, "classifier.weight": torch.full_like(weights["classifier.weight"], 3e38)}
        save_file(broken, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=r"differ from the run's by (nan|inf)"):
            verify(folder, run)
    finally:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.usefixtures("verified_here")
@pytest.mark.parametrize("module", [mask, hf], ids=["mask", "hf"])
def test_a_refused_export_leaves_nothing(
    finished: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    run = reopen(finished())
    target = tmp_path / "deep" / "export"
    # What is written is right; the run in memory is not what was written.
    with torch.no_grad():
        run.model.backbone.classifier.bias += 1e-3
    if module is hf:
        original = hf._save

        def save(run: Any, about: Any, folder: Path) -> None:
            run.model.backbone.classifier.bias.data -= 1e-3
            original(run, about, folder)
            run.model.backbone.classifier.bias.data += 1e-3

        monkeypatch.setattr(hf, "_save", save)
    with pytest.raises(UserError, match=r"differ from the run's by 1\.0\de-03, more than 1e-05"):
        module.write(run, target)
    assert list((tmp_path / "deep").iterdir()) == []


def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError), staged(target) as fresh:
        fresh.mkdir()
        (fresh / "new").write_text("new")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["old"]
    with staged(target) as fresh:
        fresh.mkdir()
        (fresh / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_full_disk_is_told_by_the_name_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as caught, staged(tmp_path / "e.smpmask") as fresh:
        write_text((fresh / "about.json") if folder else fresh, "{}")
    assert str(caught.value).startswith(f"can't write {tmp_path / 'e.smpmask'}: No space left on device;")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_while_exporting_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^there is no file .*none\.yaml$"), staged(tmp_path / "e") as fresh:
        read_yaml(fresh.parent / "none.yaml")
