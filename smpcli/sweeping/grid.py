"""A sweep file: a grid of methods x sparsities x seeds x tasks x settings, as a list of runs (docs/sweeps.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pruners.methods import METHODS
from smpcli.errors import Invalid, UserError, one_line, unknown
from smpcli.files import expanded
from smpcli.paths import RECIPES
from smpcli.settings import RunSettings, Settings, read_recipe, resolve
from smpcli.yaml_text import read_yaml

DENSE = "dense"
MOST_RUNS = 10_000
# Keys that are axes of the grid, and the name of the axis.
_AXES = {"method": "methods", "sparsity": "sparsities", "seed": "seeds", "task": "tasks"}
# What pydantic's types of error mean in a sweep file.
_NEEDED = {
    "missing": "this key is missing",
    "dict_type": "settings by name are needed, such as {batch_size: 32, penalty: [0, 400]}",
}
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31, strict=True)]


class Sweep(BaseModel):
    """A sweep file. An entry of `methods` or `tasks` is a name, or a mapping that adds settings of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    recipe: str | None = None
    methods: list[str | dict[str, Any]] = Field(min_length=1)
    sparsities: list[Sparsity] = Field(default=[0.9], min_length=1)
    seeds: list[Seed] = Field(default=[0], min_length=1)
    tasks: list[str | dict[str, Any]] = Field(min_length=1)
    settings: dict[str, Any] = {}
    teacher: Literal["dense"] | None = None


@dataclass(frozen=True)
class Job:
    """A run of the grid. id: its folder; teacher: the id of the run that must be finished first, where it has one."""

    id: str
    settings: Settings
    teacher: str | None = None


def sweep_names() -> list[str]:
    """Names of the sweeps that come with smp."""
    return sorted(path.stem for path in (RECIPES / "sweeps").glob("*.yaml"))


def list_sweeps() -> list[dict[str, str]]:
    return [{"name": name, "description": read_sweep(name).description} for name in sweep_names()]


def read_sweep(name: str) -> Sweep:
    """A sweep by name or by path of a YAML file. Raises `UserError`, one line that names the key."""
    if name in sweep_names():
        path = RECIPES / "sweeps" / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml")):
        path = expanded(name)
    else:
        raise unknown("sweep", name, sweep_names(), "`smp sweep` lists them; a file's name ends in .yaml")
    try:
        return Sweep.model_validate(read_yaml(path))
    except ValidationError as error:
        raise _invalid(path, error) from None


def _invalid(path: Path, error: ValidationError) -> UserError:
    first = Invalid.of(error)
    name = str(first.location[0])
    if first.kind == "extra_forbidden":
        return unknown(f"key in {path}:", name, Sweep.model_fields, "docs/sweeps.md lists the keys")
    key = ".".join(str(part) for part in first.location if isinstance(part, int) or part in Sweep.model_fields)
    message = _NEEDED.get(first.kind, first.text.replace("Input should", "it must"))
    if first.kind == "list_type":
        message = f"a list is needed, such as [{first.value}]"
    if name in ("methods", "tasks") and len(first.location) > 1:
        message = "a name, or a mapping with it and settings, is needed"
    return UserError(f"{path}: {key or name}: {one_line(message, 150)}{first.and_more}")


def expand(sweep: Sweep, output: Path, overrides: Mapping[str, Any] | None = None) -> list[Job]:
    """The runs of a grid, each once: a dense run isn't repeated for sparsities or for settings that it doesn't have.

    Seeds are the outermost axis, so that a whole figure is there after the first. `overrides` win over the file.
    Raises `UserError` for whatever `smp prune` would refuse in the settings of any of them.
    """
    overrides = dict(overrides or {})
    _refuse_axes("--set", overrides)
    base = read_recipe(sweep.recipe) if sweep.recipe else {}
    # A recipe may bring a method or a task; here they are the grid's.
    base = {key: value for key, value in base.items() if key not in _AXES}
    methods = [_entry(entry, "method") for entry in sweep.methods]
    tasks = [_entry(entry, "task") for entry in sweep.tasks]
    for place, given in [("settings", sweep.settings), *methods, *tasks]:
        _refuse_axes(place, given)
        _refuse_unknown(place, given, [name for name, _ in methods])
    _refuse_unknown("--set", overrides, [name for name, _ in methods])

    jobs: dict[str, Job] = {}
    for seed, (task, of_task) in product(sweep.seeds, tasks):
        for common in _combinations(_over(base, sweep.settings, of_task)):
            teacher: Job | None = None
            if sweep.teacher:
                own = next((given for name, given in methods if name == DENSE), {})
                first = next(_combinations(_over(common, own, overrides)))
                teacher = _job(DENSE, task, 0.0, seed, first)
                jobs[teacher.id] = teacher
            for method, of_method in methods:
                sparsities = sweep.sparsities if METHODS.load(method).prunes else [0.0]
                for sparsity, given in product(sparsities, _combinations(_over(common, of_method, overrides))):
                    job = _job(method, task, sparsity, seed, given)
                    if teacher and method != DENSE:
                        job = taught(job, teacher, output)
                    jobs.setdefault(job.id, job)
                    if len(jobs) > MOST_RUNS:
                        raise UserError(f"the sweep has more than {MOST_RUNS:,} runs", "shorten a list")
    return list(jobs.values())


def _entry(entry: str | dict[str, Any], key: str) -> tuple[str, dict[str, Any]]:
    """Name and own settings of an entry of `methods` or `tasks`."""
    if isinstance(entry, str):
        return entry, {}
    name = entry.get(key)
    if not isinstance(name, str):
        raise UserError(
            f"{_AXES[key]}: an entry with settings names its {key}", f"write {{{key}: …, {', '.join(entry)}: …}}"
        )
    return name, {inner: value for inner, value in entry.items() if inner != key}


def _refuse_axes(place: str, given: Mapping[str, Any]) -> None:
    for key in given:
        if key in _AXES or key == "teacher":
            raise UserError(f"{place}: '{key}' has a place of its own in a sweep file: {_AXES.get(key, key)}")


def _refuse_unknown(place: str, given: Mapping[str, Any], methods: Iterable[str]) -> None:
    """A setting must belong to some method of the sweep; those that don't have it do without."""
    known = set(RunSettings.model_fields)
    for method in methods:
        known |= _own_settings(method)
    for key in given:
        if key not in known:
            raise unknown("setting", str(key), known, f"in {place} of the sweep; `smp methods NAME` shows them")


def _own_settings(method: str) -> set[str]:
    return {field.name for field in dataclasses.fields(METHODS.load(method).Settings)}


def _over(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings where later layers win; the length is one setting, whether it's given in epochs or in steps."""
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.get("epochs") is not None or layer.get("max_steps") is not None:
            merged.pop("epochs", None)
            merged.pop("max_steps", None)
        merged |= layer
    return merged


def _combinations(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every choice of one value for each setting; a list is an axis."""
    values: Sequence[Sequence[Any]] = [value if isinstance(value, list) else [value] for value in given.values()]
    for key, choices in zip(given, values, strict=True):
        if not choices:
            raise UserError(f"setting '{key}' of the sweep is an empty list", "name a value or leave it out")
    for chosen in product(*values):
        yield dict(zip(given, chosen, strict=True))


def _job(method: str, task: str, sparsity: float, seed: int, given: Mapping[str, Any]) -> Job:
    own = _own_settings(method) | set(RunSettings.model_fields)
    flags = {key: value for key, value in given.items() if key in own}
    pruned = {"sparsity": sparsity} if METHODS.load(method).prunes else {}
    return named(resolve(flags={**flags, "method": method, "task": task, "seed": seed, **pruned}))


def taught(job: Job, teacher: Job, output: Path) -> Job:
    """The same run with a teacher; its folder need not be there yet."""
    folder = str((output / teacher.id).absolute())
    return dataclasses.replace(named(job.settings.replace(teacher=folder)), teacher=teacher.id)


def named(settings: Settings) -> Job:
    """Precision is decided here, once, as a run's name depends on it."""
    from smpcli.device import settled
    from smpcli.training.run import run_id

    settings = settled(settings)
    return Job(run_id(settings), settings)
