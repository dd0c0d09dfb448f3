"""A pruner from a package of its own, really installed by pip, and two packages that don't behave."""

from __future__ import annotations

import csv
import importlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commandline import PRUNABLE, Done, Smp, listing, make_run, result_of, run_process
from documents import commands_of, files_of, page, run_commands
from safetensors.numpy import load_file
from torch import nn

from pruners.masking import attach, start_running, straight_through
from pruners.masks.layer import MaskedLayer
from pruners.masks.stack import stack_layers

HERE = Path(__file__).parent
OWN = "smp (built in)"
WALKTHROUGH = page("write-a-pruner.md")


def pip_install(target: Path, environment: dict[str, str], *packages: Path) -> Path:
    """Build and install with pip alone: nothing is downloaded, and nobody's environment changes."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    flags = ["--no-deps", "--no-build-isolation", "--no-compile", "--target", target]
    run_process([*command, *flags, *packages], target.parent, environment).ok()
    return target


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The folder that `smp-random` and the package of docs/write-a-pruner.md are installed in."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "smp-relative").mkdir()
    for name, text in files_of(WALKTHROUGH).items():
        (folder / name).write_text(text, encoding="utf-8")
    return pip_install(folder / "installed", environment, HERE / "plugin", folder / "smp-relative")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The folder that `smp-fails` and `smp-clashes` are installed in."""
    packages = [HERE / "broken_plugins" / name for name in ("fails", "clashes")]
    return pip_install(tmp_path_factory.mktemp("broken") / "installed", environment, *packages)


@pytest.fixture
def installed(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`smp-random`, as seen by this process."""
    monkeypatch.syspath_prepend(plugin)
    for name in ("smp_random", "smp_relative"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()


def one_error(done: Done, *says: str) -> None:
    assert done.code == 2, done
    (line,) = done.err.splitlines()
    assert line.startswith("error: ") and len(line) <= 307 and "Traceback" not in line
    for part in says:
        assert part in line
    assert done.out == ""


def test_an_installed_method_is_listed_with_its_package(real_smp: Smp, plugin: Path) -> None:
    env = {"PYTHONPATH": str(plugin)}
    assert "chance" not in [entry["name"] for entry in real_smp("methods", "--json").json]
    found = {entry["name"]: entry for entry in real_smp("methods", "--json", env=env).json}
    assert found["chance"]["package"] == "smp-random 1.2.3"
    assert found["smp"]["package"] == OWN
    assert re.search(r"^ *chance +smp-random 1\.2\.3", real_smp("methods", env=env).ok().out, re.MULTILINE)


def test_listing_imports_no_plugin(plugin: Path, broken: Path, environment: dict[str, str], tmp_path: Path) -> None:
    code = (
        "import sys; from smpcli.main import main; sys.argv = ['smp', 'methods']\n"
        "try: main()\n"
        "finally: print('\\n', *sorted(sys.modules))"
    )
    env = environment | {"PYTHONPATH": f"{plugin}{os.pathsep}{broken}"}
    done = run_process([sys.executable, "-c", code], tmp_path, env).ok()
    imported = set(done.out.splitlines()[-1].split())
    assert "smpcli.main" in imported
    assert not {"torch", "smp_random", "smp_fails", "smp_fails_softly", "smp_clashes"} & imported


def test_an_installed_method_is_shown_in_full(smp: Smp, installed: None) -> None:
    shown = smp("methods", "chance").ok().out
    assert "Keeps weights at random" in shown and "smp-random 1.2.3" in shown
    assert re.search(r"mask_seed +int +0 +seed of the random scores", shown)
    about = smp("methods", "chance", "--json").json
    settings = {entry["name"]: entry for entry in about["settings"]}
    # Its own setting beside those that every method has.
    assert settings["mask_seed"]["default"] == 0 and "ramp_end" in settings


def test_an_installed_method_s_setting_is_checked_and_matters(
    smp: Smp, installed: None, on_pico: list[str], tmp_path: Path
) -> None:
    command = ["prune", "--method", "chance", "--sparsity", "0.75", *on_pico]
    run = make_run(*command, "--set", "mask_seed=3", "--output", tmp_path / "one")
    result = result_of(run)
    assert result["run"]["method"] == "chance"
    assert result["weights"]["kept"] == PRUNABLE // 4
    assert "mask_seed: 3\n" in (run / "settings.yaml").read_text(encoding="utf-8")

    one_error(smp(*command, "--set", "mask_seed=-1", "--output", tmp_path / "no"), "mask_seed", "-1")
    one_error(
        smp(*command, "--set", "maskseed=1", "--output", tmp_path / "no"), "'mask_seed'", "`smp methods chance`"
    )
    other = smp(*command, "--set", "mask_seed=4", "--output", tmp_path / "other", "--json").json
    other_mask = tmp_path / "other" / other["run"]["id"] / "mask.safetensors"
    assert other_mask.read_bytes() != (run / "mask.safetensors").read_bytes()


def test_the_walkthrough_ends_with_a_method_that_works(
    installed: None, plugin: Path, pico: Callable[[str], Path], sentiment: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """docs/write-a-pruner.md: its package is installed, its test passes, and its commands run in their order."""
    monkeypatch.syspath_prepend(plugin.parent / "smp-relative")
    own = importlib.import_module("test_relative")
    tests = [test for name, test in vars(own).items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()

    shutil.copy(sentiment.csv, tmp_path / "movies.csv")
    short = {"task": "movies.csv", "model": str(pico("bert")), "max_length": 24, "max_steps": 6, "batch_size": 8}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(short))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    make_run("prune", "--recipe", "short.yaml", "--method", "magnitude", "--sparsity", "0.9")
    assert {command.split()[1] for command, _ in commands_of(WALKTHROUGH)} == set(
        "methods prune eval compare inspect export".split()
    )
    run_commands(WALKTHROUGH, {"minilm": str(pico("bert"))})
    (run,) = tmp_path.glob("results/movies-relative-0.9-seed0-*")
    assert result_of(run)["weights"]["kept"] == PRUNABLE // 10
    with (tmp_path / "results/comparison.csv").open(newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"relative", "magnitude"}
    weights = load_file(tmp_path / "reviews-relative" / "model.safetensors")
    kept = sum(np.count_nonzero(tensor) for name, tensor in weights.items() if ".layer." in name and tensor.ndim == 2)
    assert kept == PRUNABLE // 10


@pytest.mark.parametrize("stacked", [False, True])
def test_the_walkthrough_s_method_keeps_a_running_mean_of_signs(
    plugin: Path, monkeypatch: pytest.MonkeyPatch, stacked: bool
) -> None:
    monkeypatch.syspath_prepend(plugin.parent / "smp-relative")
    firm = importlib.import_module("smp_firm").Firm()
    layers = [MaskedLayer(str(number), "dense", nn.Linear(4, 3)) for number in range(2)]
    attach(firm, layers, {})
    if stacked:
        stack_layers(layers)
    start_running(firm, layers)
    signs = [torch.randn(2, 3, 4) for _ in range(4)]
    for step, gradients in enumerate(signs):
        for layer, gradient in zip(layers, gradients, strict=True):
            layer.effective.grad = gradient.clone()
        straight_through(firm, layers, 0.0, step)
    for index, layer in enumerate(layers):
        mean = torch.stack([0.1 * 0.9 ** (3 - step) * own[index].sign() for step, own in enumerate(signs)]).sum(0)
        torch.testing.assert_close(firm.score(layer), layer.weight.detach().abs() * (1 + mean.abs()))


def test_a_run_whose_plugin_is_gone(
    smp: Smp, plugin: Path, on_pico: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can't be evaluated, and is still a row of the table: result.json says all that a row needs."""
    with monkeypatch.context() as patched:
        patched.syspath_prepend(plugin)
        smp("prune", "--method", "chance", *on_pico, "--output", tmp_path).ok()
    (run,) = tmp_path.iterdir()
    one_error(smp("eval", run), "unknown method 'chance'", "`smp methods`")
    (row,) = smp("compare", tmp_path, "--json").json["rows"]
    assert row["method"] == "chance"


def test_plugins_that_do_not_work_are_named(
    smp: Smp, installed: None, broken: Path, on_pico: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(broken)
    monkeypatch.chdir(tmp_path)

    def fails(method: str, *says: str) -> None:
        one_error(smp("prune", "--method", method, *on_pico), *says)
        one_error(smp("methods", method), *says)

    fails("fails", "'fails'", "smp-fails 0.3", "ImportError: needs a library that isn't there", "uninstall")
    fails("nothing", "'nothing'", "smp-fails 0.3", "smp_fails_not")
    fails("no-pruner", "'no-pruner'", "smp-fails 0.3", "pruners.Pruner")
    fails("misnamed", "'misnamed'", "smp-fails 0.3", "'well-named'")
    # Two owners: neither is taken in silence, both are named.
    fails("smp", "'smp'", OWN, "smp-clashes 7.0", "uninstall or rename")
    fails("chance", "'chance'", "smp-random 1.2.3", "smp-clashes 7.0")
    assert listing(tmp_path) == []
    assert "smp_clashes" not in sys.modules


def test_plugins_that_do_not_work_hurt_nobody(
    real_smp: Smp, plugin: Path, broken: Path, on_pico: list[str], tmp_path: Path
) -> None:
    env = {"PYTHONPATH": f"{plugin}{os.pathsep}{broken}"}
    one_error(real_smp("prune", "--method", "smp", *on_pico, cwd=tmp_path, env=env), OWN, "smp-clashes 7.0")

    listed = real_smp("methods", "--json", env=env).json
    owners: dict[str, list[str]] = {}
    for entry in listed:
        owners.setdefault(entry["name"], []).append(entry["package"])
    assert owners["smp"] == [OWN, "smp-clashes 7.0"]
    assert sorted(owners["chance"]) == ["smp-clashes 7.0", "smp-random 1.2.3"]
    assert owners["fails"] == ["smp-fails 0.3"]
    clashing = [entry["summary"] for entry in listed if entry["name"] in ("smp", "chance")]
    assert all("can't be used" in summary for summary in clashing)
    shown = real_smp("methods", env=env).ok()
    assert all(name in shown.out for name in ("magnitude", "fails", "smp-clashes 7.0")) and shown.err == ""

    # The others go on as ever.
    done = real_smp("prune", "--method", "magnitude", *on_pico, "--quiet", cwd=tmp_path, env=env).ok()
    assert done.err == "" and (tmp_path / done.out.strip() / "result.json").is_file()
    assert real_smp("recipes", env=env).ok().err == ""
