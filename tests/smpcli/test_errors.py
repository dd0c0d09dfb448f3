"""A problem and a remedy: what is shown of both, and what is made of pydantic's complaints."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, field_validator

from pruners.errors import PrunerError, SettingError
from smpcli import console
from smpcli.errors import EXIT_USER, Invalid, UserError, other_version, unknown
from smpcli.reporting import guarded
from smpcli.settings import invalid

PLACE, REASON = "/data/" + "folder/" * 60 + "x.csv, line 7: ", "the label is missing"
REMEDY = "take " + "another " * 12 + "file"


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    count: int = 0


class Outer(BaseModel):
    inner: Inner = Inner()
    names: list[str] = []
    mode: str = ""

    @field_validator("mode")
    @classmethod
    def _known(cls, value: str) -> str:
        if value:
            raise ValueError(f"no mode '{value}'")
        return value


def refused(**values: object) -> Invalid:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(values)
    return Invalid.of(caught.value)


def test_a_long_problem_loses_its_middle_and_a_remedy_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError(PLACE + REASON, REMEDY)

    assert guarded(fail) == EXIT_USER
    line = capsys.readouterr().err.removesuffix("\n")
    assert line.startswith("error: /data/folder/") and line.endswith(f"{REASON}; {REMEDY}") and " … " in line
    assert len(line.removeprefix("error: ")) == console.MESSAGE == 300


def test_a_remedy_longer_than_a_line_leaves_room_for_the_problem() -> None:
    line = console.error_line(PLACE + REASON, "do this " * 50 + "and that")
    problem, _, remedy = line.partition("; ")
    assert len(problem) == console.LEAST == 100 and problem.endswith(REASON)
    assert remedy == "do this " * 50 + "and that"


def test_what_fits_is_shown_as_it_is_in_one_line() -> None:
    assert console.error_line("a\n  problem", "a\tremedy") == "a problem; a remedy"
    assert console.error_line("x" * 300) == "x" * 300
    assert len(console.error_line("x" * 301)) == 300


def test_the_fields_survive_a_process_and_stand_alone() -> None:
    for kind in (UserError, PrunerError):
        error = pickle.loads(pickle.dumps(kind("no device", "use cpu")))
        assert (error.problem, error.remedy, str(error)) == ("no device", "use cpu", "no device; use cpu")
        assert str(kind("no device")) == "no device"


def test_names_and_versions_have_their_remedy() -> None:
    near = unknown("method", "mop", ["smp", "dense"], "`smp methods` lists them")
    assert (near.problem, near.remedy) == ("unknown method 'mop'", "did you mean 'smp'? (`smp methods` lists them)")
    far = unknown("method", "xyz", ["smp", "dense"])
    assert (far.problem, far.remedy) == ("unknown method 'xyz'", "known: dense, smp")
    assert unknown("metric", "f1", [], "no run has it").remedy == "no run has it"
    assert other_version("x", 1, 2, "export it again").remedy == "export it again"
    assert other_version("x", 3, 2, "export it again").remedy == "upgrade smp"


def test_the_first_problem_of_a_validation() -> None:
    assert str(refused(inner={"count": "x"})).startswith("inner.count: Input should be a valid integer")
    several = refused(names=[1, "a", 2], inner={"cuont": 1})
    assert (several.key, several.kind, several.value, several.more) == ("inner.cuont", "extra_forbidden", 1, 2)
    assert str(several).endswith(" (and 2 more)")
    own = refused(mode="fast")
    assert isinstance(own.raised, ValueError) and str(own) == "mode: no mode 'fast'"


def test_a_setting_that_is_out_of_range_says_which() -> None:
    error = SettingError("penalty", "must be at least 0, not -1")
    assert (error.name, error.problem, str(error)) == (
        "penalty",
        "must be at least 0, not -1",
        "penalty must be at least 0, not -1",
    )


@pytest.mark.parametrize(
    "raised, said",
    [
        (
            SettingError("penalty", "must be at least 0, not -1"),
            "recipe r: setting 'penalty' must be at least 0, not -1",
        ),
        (ValueError("alpha and beta don't go together"), "settings: alpha and beta don't go together"),
    ],
)
def test_a_method_refuses_its_own_settings(raised: Exception, said: str) -> None:
    @dataclass
    class Own:
        penalty: float = 0.0

        def __post_init__(self) -> None:
            raise raised

    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Own).validate_python({})
    assert str(invalid(caught.value, {"penalty": "recipe r"})) == said
