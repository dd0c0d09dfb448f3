"""Finding methods: the built-in ones, and those of other packages, with all that can be wrong with them."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pruners
import smpcli
from pruners.base import Pruner
from pruners.errors import PrunerError, UserError
from pruners.methods import METHODS
from pruners.registry import Entry, Registry
from smpcli.catalogue import describe_method
from smpcli.settings import resolve

BUILT_IN = {"smp", "movement", "soft-movement", "magnitude", "snip-momentum", "platon", "obert", "dense"}

GOOD = '''
from pruners import Pruner

class Keep(Pruner):
    """Keeps what comes first."""

    name = "{name}"
    title = "Keep"
'''

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install("dist", "1.0", module, code, {"name": "module:Class"}) puts a package on sys.path, as pip would."""

    def make(dist: str, version: str, module: str, code: str, points: dict[str, str], place: str = "") -> Path:
        site = tmp_path / (place or dist)
        info = site / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        lines = "".join(f"{name} = {target}\n" for name, target in points.items())
        (info / "entry_points.txt").write_text(f"[smp.pruners]\n{lines}")
        (site / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(site))
        # Modules of the same name in later tests must be read anew.
        monkeypatch.delitem(sys.modules, module, raising=False)
        return site

    return make


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_built_in_summary_is_the_first_line_of_the_docstring(name: str) -> None:
    (entry,) = METHODS.entries()[name]
    assert entry.summary == (inspect.getdoc(METHODS.load(name)) or "").split("\n")[0]


def test_all_built_in_methods_are_listed_and_load() -> None:
    assert set(METHODS.entries()) >= BUILT_IN
    for name in BUILT_IN:
        assert issubclass(METHODS.load(name), Pruner)
        assert METHODS.load(name).name == name
        assert METHODS.load(name).paper.startswith("https://")


def test_listing_imports_neither_torch_nor_a_plugin(install: Install) -> None:
    site = install("smp-loud", "1.0", "loud_pruner", "raise SystemExit('imported')", {"loud": "loud_pruner:Loud"})
    code = (
        "import sys; from pruners.methods import METHODS; found = METHODS.entries(); "
        "heavy = {'torch', 'numpy', 'transformers', 'loud_pruner'} & set(sys.modules); "
        "print(sorted(found), found['loud'][0].package, sorted(heavy))"
    )
    root = Path(pruners.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{root}:{site}"},
    )
    assert done.stdout.strip() == f"{sorted({*METHODS.entries()})} smp-loud 1.0 []"


def test_a_plugin_is_listed_with_its_package_and_loads(install: Install) -> None:
    install("smp-keep", "2.1", "keep_pruner", GOOD.format(name="keep"), {"keep": "keep_pruner:Keep"})
    assert METHODS.entries()["keep"] == [Entry("keep", "keep_pruner:Keep", "smp-keep 2.1")]
    pruner = METHODS.load("keep")
    assert (pruner.name, pruner.title) == ("keep", "Keep")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"^unknown method 'movment'; did you mean 'movement'\? \(`smp methods` lists them"
    ):
        METHODS.load("movment")
    with pytest.raises(UserError, match=r"\(in recipe x; `smp methods` lists them\)$"):
        METHODS.require("movment", "in recipe x")


def test_a_registry_is_of_any_kind() -> None:
    """Modules as well as what is in them; without a group nobody else publishes any; hint and check are optional."""
    shapes: Registry[Any] = Registry("shape", {"maths": ("math", "all"), "pi": ("math:pi", "one")})
    assert list(shapes) == ["maths", "pi"]
    assert shapes.load("maths").pi == shapes.load("pi") == math.pi
    assert [entry.summary for (entry,) in shapes.entries().values()] == ["all", "one"]
    with pytest.raises(UserError, match=r"^unknown shape 'round'; known: maths, pi$"):
        shapes.load("round")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):  # a fault of ours is no plugin's
        Registry("shape", {"bad": ("no_such_module", "")}).load("bad")


@pytest.mark.parametrize("name", ["smp", "keep"])
def test_a_collision_names_both_owners_and_hurts_nothing_else(install: Install, name: str) -> None:
    install("smp-one", "1.0", "one_pruner", GOOD.format(name=name), {name: "one_pruner:Keep"})
    owners = ["smp-one 1.0 (one_pruner:Keep)", "smp (built in) (pruners.smp:SMP)"]
    if name == "keep":
        install("smp-two", "3.0", "two_pruner", GOOD.format(name=name), {name: "two_pruner:Keep"})
        owners[1] = "smp-two 3.0 (two_pruner:Keep)"
    assert len(METHODS.entries()[name]) == 2
    with pytest.raises(PrunerError, match=f"two packages publish a method '{name}'") as caught:
        METHODS.load(name)
    assert all(owner in str(caught.value) for owner in owners)
    assert METHODS.load("dense").name == "dense"


def test_a_package_that_is_visible_twice_is_one_owner(install: Install) -> None:
    code, points = GOOD.format(name="keep"), {"keep": "keep_pruner:Keep"}
    install("smp-keep", "2.1", "keep_pruner", code, points, place="checkout")
    install("smp-keep", "2.1", "keep_pruner", code, points, place="site-packages")
    assert METHODS.load("keep").name == "keep"


@pytest.mark.parametrize(
    ("code", "target", "reason"),
    [
        ("import no_such_library", "bad_pruner:Bad", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("1 / 0", "bad_pruner:Bad", "ZeroDivisionError"),
        ("def (", "bad_pruner:Bad", "SyntaxError"),
        ("", "bad_pruner:Bad", "AttributeError"),
        ("", "gone_pruner:Bad", "ModuleNotFoundError: No module named 'gone_pruner'"),
    ],
)
def test_a_plugin_that_fails_at_import_is_named_with_its_package(
    install: Install, code: str, target: str, reason: str
) -> None:
    install("smp-bad", "0.3", "bad_pruner", code, {"bad": target})
    with pytest.raises(PrunerError, match=r"method 'bad' of package smp-bad 0\.3 fails at import") as caught:
        METHODS.load("bad")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert METHODS.load("magnitude").name == "magnitude"


def test_a_broken_method_is_a_user_error_of_the_program(install: Install) -> None:
    install("smp-bad", "0.3", "bad_pruner", "1 / 0", {"bad": "bad_pruner:Bad"})
    for ask in (lambda: describe_method("bad"), lambda: resolve(flags={"method": "bad", "task": "movies"})):
        with pytest.raises(smpcli.UserError, match=r"method 'bad' of package smp-bad 0\.3 fails at import"):
            ask()


def test_the_class_must_bear_the_name_of_its_entry_point(install: Install) -> None:
    install("smp-keep", "1.0", "keep_pruner", GOOD.format(name="other"), {"keep": "keep_pruner:Keep"})
    with pytest.raises(PrunerError, match=r"smp-keep 1\.0: the class calls itself 'other'"):
        METHODS.load("keep")


HEAD = """
from dataclasses import dataclass
import torch
from pruners import Pruner, PrunerSettings, ScoredPruner, ScoredSettings, setting

"""
# A method that learns scores, as far as the parts that are put in are right.
LEARNS = (
    HEAD
    + '''
@dataclass
class KeepSettings({base}):
    {setting}

class Keep(Pruner):
    """Learns."""

    name = "keep"
    title = "Keep"
    {trains} = True
    Settings = KeepSettings

    def {start}(self, layer, statistics):
        return torch.zeros_like(layer.weight)
'''
)
RIGHT = {
    "base": "PrunerSettings",
    "setting": 'scores_lr: float = setting(1e-2, "rate", 0)',
    "trains": "trains_scores",
    "start": "start",
}


def test_a_start_is_asked_by_a_method_that_needs_statistics(install: Install) -> None:
    source = LEARNS.format(**{**RIGHT, "setting": "pass", "trains": "trains_weights"})
    source += "\n    @property\n    def needs_statistics(self):\n        return True\n"
    install("smp-keep", "1.0", "keep_pruner", source, {"keep": "keep_pruner:Keep"})
    assert METHODS.load("keep").needs_statistics is not Pruner.needs_statistics


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"setting": "pass"}, r"have no scores_lr.* from pruners\.ScoredSettings, or add scores_lr: float = "),
        ({"setting": 'score_lr: float = setting(1e-2, "rate", 0)'}, "has score_lr, .*did you mean scores_lr"),
        ({"setting": "scores_lr = 1e-2"}, None),
        ({"base": "ScoredSettings", "setting": "scores_lr = 1e-2"}, "sets scores_lr .*without a type"),
        ({"base": "ScoredSettings", "setting": "weight_lr: float = 1.0"}, "has weight_lr, .*did you mean weights_lr"),
        ({"trains": "train_scores"}, "has train_scores, .*did you mean trains_scores"),
        ({"trains": "trains_weights"}, r"has a start\(\), which is never asked; add trains_scores = True"),
        ({"start": "strat"}, "has strat, .*did you mean start"),
        ({"start": "begin"}, r"has no start\(\)"),
    ],
)
def test_what_a_plugin_says_in_vain_is_said(install: Install, wrong: dict[str, str], reason: str | None) -> None:
    install("smp-keep", "1.0", "keep_pruner", LEARNS.format(**{**RIGHT, **wrong}), {"keep": "keep_pruner:Keep"})
    if reason is None:
        # A plain class attribute is read like a field, only that nobody can set it.
        settings: Any = METHODS.load("keep").Settings()
        assert settings.scores_lr == 1e-2
        return
    with pytest.raises(PrunerError, match=reason) as caught:
        METHODS.load("keep")
    assert "method 'keep' of package smp-keep 1.0" in str(caught.value) and "\n" not in str(caught.value)


def test_settings_without_dataclass_are_refused(install: Install) -> None:
    code = LEARNS.format(**RIGHT).replace("@dataclass\n", "")
    install("smp-keep", "1.0", "keep_pruner", code, {"keep": "keep_pruner:Keep"})
    with pytest.raises(PrunerError, match="put @dataclass above KeepSettings"):
        METHODS.load("keep")


def test_helpers_that_a_plugin_uses_itself_are_its_own_business(install: Install) -> None:
    """Names near ours, but read: `scores`, `state`, a setting `beta3`; and what is right is taken."""
    code = (
        HEAD
        + '''
@dataclass
class KeepSettings(ScoredSettings):
    beta3: float = setting(0.5, "third", 0)

class Keep(ScoredPruner):
    """Learns."""

    name = "keep"
    title = "Keep"
    Settings = KeepSettings
    settings: KeepSettings
    state = 0

    def scores(self, layer):
        return self.settings.beta3 * layer.score() + self.state

    def score(self, layer):
        return self.scores(layer)
'''
    )
    install("smp-keep", "1.0", "keep_pruner", code, {"keep": "keep_pruner:Keep"})
    assert METHODS.load("keep").trains_scores
    install("smp-other", "1.0", "other_pruner", LEARNS.format(**RIGHT), {"other": "other_pruner:Keep"})
    with pytest.raises(PrunerError, match="calls itself 'keep'"):
        METHODS.load("other")


@pytest.mark.parametrize("code", ["Bad = 3", "class Bad: name = 'bad'", "def Bad(): pass"])
def test_what_is_no_pruner_is_refused(install: Install, code: str) -> None:
    install("smp-bad", "1.0", "bad_pruner", code, {"bad": "bad_pruner:Bad"})
    with pytest.raises(PrunerError, match=r"bad_pruner:Bad is not a subclass of pruners\.Pruner"):
        METHODS.load("bad")
