"""The built wheel, installed in an environment of its own, away from the checkout."""

from __future__ import annotations

import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import PRUNABLE, SHORT, listing, result_of, run_process

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    target = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT]
    run_process(build, target, environment).ok()
    (made,) = target.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installation(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Callable[[str], Path]:
    """A new environment with the wheel; its commands by name.

    Its dependencies are this environment's, through a .pth file: .pth files there aren't read in turn, so an editable
    installation of the checkout stays out of sight.
    """
    folder = tmp_path_factory.mktemp("installation") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", scripts / "python"]
    run_process([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], folder, environment).ok()
    (packages,) = folder.glob("**/site-packages")
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "dependencies.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    return lambda name: scripts / name


def test_what_the_wheel_holds(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        recipes = {
            path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "recipes").rglob("*.yaml")
        }
        assert len(recipes) > 6
        assert {name: archive.read(f"smpcli/{name}") for name in recipes} == recipes
    packages = {name.partition("/")[0] for name in names}
    (information,) = {name for name in packages if name.endswith(".dist-info")}
    assert packages == {"smpcli", "pruners", information}
    code = {
        path.relative_to(ROOT).as_posix() for room in ("smpcli", "pruners") for path in (ROOT / room).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == code
    assert {"smpcli/py.typed", "pruners/py.typed", f"{information}/licenses/LICENSE"} <= names
    assert not [name for name in names if "__pycache__" in name or "test" in name.lower()]


def test_smp_from_the_wheel_outside_the_checkout(
    installation: Callable[[str], Path],
    environment: dict[str, str],
    pico: Callable[[str], Path],
    sentiment: Any,
    tmp_path: Path,
) -> None:
    where = (
        "import pruners, smpcli; from smpcli.paths import RECIPES; print(smpcli.__file__, pruners.__file__, RECIPES)"
    )
    found = run_process([installation("python"), "-c", where], tmp_path, environment).ok().out.split()
    inside = installation("python").parent.parent.resolve()
    assert len(found) == 3
    for path in found:
        assert Path(path).resolve().is_relative_to(inside)
        assert not Path(path).resolve().is_relative_to(ROOT)

    version = run_process([installation("smp"), "--version"], tmp_path, environment).ok()
    assert version.out.startswith("smp ") and version.err == ""
    assert "sst2" in run_process([installation("smp"), "tasks"], tmp_path, environment).ok().out
    assert listing(tmp_path) == []

    # A recipe and a built-in task's YAML, both out of the wheel.
    data = tmp_path / "data" / "SST-2"
    data.mkdir(parents=True)
    rows = [f"{text}\t{int(label == 'positive')}\n" for text, label in sentiment.rows]
    for name, part in (("train.tsv", rows[:200]), ("dev.tsv", rows[200:])):
        (data / name).write_text("sentence\tlabel\n" + "".join(part), encoding="utf-8")
    command = [installation("smp"), "prune", "--recipe", "smp-paper", "--task", "sst2", "--data-dir", data.parent]
    done = run_process([*command, "--model", pico("bert"), *SHORT, "--quiet"], tmp_path, environment).ok()
    assert done.err == ""
    result = result_of(tmp_path / done.out.strip())
    assert result["run"]["task"] == "sst2" and result["run"]["method"] == "smp"
    assert result["weights"]["kept"] == PRUNABLE // 10
    assert "init: zero\n" in (tmp_path / done.out.strip() / "settings.yaml").read_text(encoding="utf-8")
