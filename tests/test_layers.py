"""Imports go one way, those of functions and of TYPE_CHECKING included: no upward arrow, and no circle of files.

And a name means one thing: no two public classes share one, nor two files (but a command's and what it calls).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: From the ground up; rooms of one line know nothing of each other. docs/architecture.md says what is in each.
LAYERS = [
    "pruners.errors pruners.schedule",
    "pruners.registry",
    "pruners.masks",
    "pruners.base",
    "pruners.scored pruners.standing pruners.sensitivity",
    "pruners.methods pruners.masking pruners.smp pruners.movement pruners.magnitude pruners.dense",
    "pruners.gmp pruners.random_masks pruners.one_shot pruners.snip_momentum pruners.platon pruners.obert",
    "pruners.soft_movement pruners.l0 pruners.wanda",
    "pruners",
    "smpcli.errors smpcli.paths smpcli.text smpcli.network smpcli.console",
    "smpcli.files smpcli.reporting",
    "smpcli.figures smpcli.yaml_text smpcli.index",
    "smpcli.tasks",
    "smpcli.modeling",
    "smpcli.settings",
    "smpcli.catalogue smpcli.encoding smpcli.device smpcli.runs",
    "smpcli.kinds",
    "smpcli.evaluation",
    "smpcli.training",
    "smpcli.inspection smpcli.export",
    "smpcli.comparison",
    "smpcli.dry_run smpcli.sweeping smpcli.bench",
    "smpcli.doctor",
    "smpcli.api",
    "smpcli",
    "smpcli.commands",
    "smpcli.main",
    "smpcli.__main__",
]
LAYER = {room: height for height, rooms in enumerate(LAYERS) for room in rooms.split()}


def sources() -> dict[str, str]:
    """Every module of the two packages by its name."""
    found = {}
    for package in ("pruners", "smpcli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path.read_text(encoding="utf-8")
    return found


def imports(source: str, modules: Mapping[str, str]) -> Iterator[str]:
    """The modules of ours that a source names in any import, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else node.module for name in whole]
        yield from (name for name in names if name in modules)


def room_of(module: str) -> str:
    """A folder is a room, and so is a file beside the folders."""
    return ".".join(module.split(".")[:2])


def faults(modules: Mapping[str, str]) -> list[str]:
    """Imports that go up or across, and circles of files."""
    arrows = {name: set(imports(source, modules)) - {name} for name, source in modules.items()}
    found = [
        f"{name} imports {other}"
        for name, others in arrows.items()
        for other in sorted(others)
        if room_of(name) != room_of(other) and LAYER[room_of(name)] <= LAYER[room_of(other)]
    ]
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found.append(f"circle: {' -> '.join(error.args[1])}")
    return found


def test_imports_go_down() -> None:
    assert faults(sources()) == []


def test_no_module_takes_the_place_of_a_function() -> None:
    """`import smpcli.plan` would put a module where `smpcli.plan()` was; export is imported before its function."""
    import smpcli

    assert {name for name in smpcli.__all__ if f"smpcli.{name}" in sources()} == {"export"}


def twice(modules: Mapping[str, str]) -> list[str]:
    """Names that two public classes have, and those that two files of one package have."""
    owners: dict[str, list[str]] = {}
    for name, source in modules.items():
        if not name.startswith("smpcli.commands."):
            owners.setdefault(f"{name.split('.')[0]}: {name.split('.')[-1]}.py", []).append(name)
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                owners.setdefault(f"class {node.name}", []).append(name)
    return [f"{what} in {' and '.join(places)}" for what, places in owners.items() if len(places) > 1]


def test_a_name_means_one_thing() -> None:
    assert twice(sources()) == []


@pytest.mark.parametrize(
    ("module", "planted", "said"),
    [
        ("smpcli.text", "class Matrix: ...", "class Matrix in smpcli.inspection.matrices and smpcli.text"),
        ("smpcli.runs.loop", "", "smpcli: loop.py in smpcli.runs.loop and smpcli.training.loop"),
    ],
)
def test_a_planted_twin_is_found(module: str, planted: str, said: str) -> None:
    modules = sources()
    modules[module] = modules.get(module, "") + f"\n{planted}\n"
    assert said in twice(dict(sorted(modules.items())))


@pytest.mark.parametrize(
    ("module", "planted", "said"),
    [
        ("smpcli.tasks.task", "from smpcli.training.loop import train", "smpcli.tasks.task imports"),
        ("smpcli.runs.schema", "def f():\n    from smpcli.evaluation import evaluate", "smpcli.runs.schema imports"),
        ("smpcli.encoding.tokens", "from smpcli import runs", "smpcli.encoding.tokens imports smpcli.runs"),
        ("pruners.masks.layer", "if TYPE_CHECKING:\n    from pruners.base import Pruner", "pruners.masks.layer"),
        ("smpcli.training.progress", "from smpcli.training.loop import train", "circle: "),
    ],
)
def test_a_planted_import_is_found(module: str, planted: str, said: str) -> None:
    modules = sources()
    modules[module] += f"\n{planted}\n"
    assert any(fault.startswith(said) for fault in faults(modules))
