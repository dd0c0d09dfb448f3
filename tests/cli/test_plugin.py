"""A pruner from a package of its own, really installed by pip, and two packages that don't behave."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import PRUNABLE, Done, Smp, listing, result_of, run_process
from safetensors.numpy import load_file

HERE = Path(__file__).parent
OWN = "smp (built in)"


def pip_install(target: Path, environment: dict[str, str], *packages: Path) -> Path:
    """Build and install with pip alone: nothing is downloaded, and nobody's environment changes."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index"]
    flags = ["--no-deps", "--no-build-isolation", "--no-compile", "--target", target]
    run_process([*command, *flags, *packages], target.parent, environment).ok()
    return target


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The folder that the package `smp-random` is installed in."""
    return pip_install(tmp_path_factory.mktemp("plugin") / "installed", environment, HERE / "plugin")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """The folder that `smp-fails` and `smp-clashes` are installed in."""
    packages = [HERE / "broken_plugins" / name for name in ("fails", "clashes")]
    return pip_install(tmp_path_factory.mktemp("broken") / "installed", environment, *packages)


@pytest.fixture
def installed(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`smp-random`, as seen by this process."""
    monkeypatch.syspath_prepend(plugin)
    monkeypatch.delitem(sys.modules, "smp_random", raising=False)
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
    assert "random" not in [entry["name"] for entry in real_smp("methods", "--json").json]
    found = {entry["name"]: entry for entry in real_smp("methods", "--json", env=env).json}
    assert found["random"]["package"] == "smp-random 1.2.3"
    assert found["smp"]["package"] == OWN
    assert re.search(r"^ *random +smp-random 1\.2\.3", real_smp("methods", env=env).ok().out, re.MULTILINE)


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
    shown = smp("methods", "random").ok().out
    assert "Keeps weights at random" in shown and "smp-random 1.2.3" in shown
    assert re.search(r"mask_seed +int +0 +seed of the random scores", shown)
    about = smp("methods", "random", "--json").json
    settings = {entry["name"]: entry for entry in about["settings"]}
    # Its own setting beside those that every method has.
    assert settings["mask_seed"]["default"] == 0 and "ramp_end" in settings


def test_an_installed_method_from_prune_to_export(
    real_smp: Smp, smp: Smp, plugin: Path, installed: None, on_pico: list[str], finished: Path, tmp_path: Path
) -> None:
    env = {"PYTHONPATH": str(plugin)}
    command = ["prune", "--method", "random", "--sparsity", "0.75", *on_pico]
    done = real_smp(*command, "--set", "mask_seed=3", "--quiet", cwd=tmp_path, env=env).ok()
    assert done.err == ""
    run = tmp_path / done.out.strip()
    result = result_of(run)
    assert result["run"]["method"] == "random"
    assert result["weights"]["kept"] == PRUNABLE // 4
    assert "mask_seed: 3\n" in (run / "settings.yaml").read_text(encoding="utf-8")

    assert smp("eval", run, "--json").json["agrees"]
    rows = smp("compare", run, finished, "--csv", tmp_path / "c.csv", "--json").json["rows"]
    assert sorted(row["method"] for row in rows) == ["random", "smp"]
    made = smp("export", run, "--output", tmp_path / "hf", "--json").json
    assert made["max_difference"] <= 1e-5
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    kept = sum(np.count_nonzero(tensor) for name, tensor in weights.items() if ".layer." in name and tensor.ndim == 2)
    assert kept == PRUNABLE // 4

    # The setting is the method's own: it is checked, and it matters.
    one_error(smp(*command, "--set", "mask_seed=-1", "--output", tmp_path / "no"), "mask_seed", "-1")
    one_error(
        smp(*command, "--set", "maskseed=1", "--output", tmp_path / "no"), "'mask_seed'", "`smp methods random`"
    )
    other = smp(*command, "--set", "mask_seed=4", "--output", tmp_path / "other", "--json").json
    other_mask = tmp_path / "other" / other["run"]["id"] / "mask.safetensors"
    assert other_mask.read_bytes() != (run / "mask.safetensors").read_bytes()


def test_a_run_whose_plugin_is_gone(
    smp: Smp, plugin: Path, on_pico: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can't be evaluated, and is still a row of the table: result.json says all that a row needs."""
    with monkeypatch.context() as patched:
        patched.syspath_prepend(plugin)
        smp("prune", "--method", "random", *on_pico, "--output", tmp_path).ok()
    (run,) = tmp_path.iterdir()
    one_error(smp("eval", run), "unknown method 'random'", "`smp methods`")
    (row,) = smp("compare", tmp_path, "--json").json["rows"]
    assert row["method"] == "random"


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
    fails("random", "'random'", "smp-random 1.2.3", "smp-clashes 7.0")
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
    assert sorted(owners["random"]) == ["smp-clashes 7.0", "smp-random 1.2.3"]
    assert owners["fails"] == ["smp-fails 0.3"]
    clashing = [entry["summary"] for entry in listed if entry["name"] in ("smp", "random")]
    assert all("can't be used" in summary for summary in clashing)
    shown = real_smp("methods", env=env).ok()
    assert all(name in shown.out for name in ("magnitude", "fails", "smp-clashes 7.0")) and shown.err == ""

    # The others go on as ever.
    done = real_smp("prune", "--method", "magnitude", *on_pico, "--quiet", cwd=tmp_path, env=env).ok()
    assert done.err == "" and (tmp_path / done.out.strip() / "result.json").is_file()
    assert real_smp("recipes", env=env).ok().err == ""
