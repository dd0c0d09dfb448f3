"""Settings of a run: recipe + flags, validated before anything heavy is imported.

Keys are flat: a run's own (`RunSettings`) and the method's (its `Settings` dataclass). Later sources win:
defaults < the task's defaults < --recipe < --set and flags.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pruners import registry
from smpcli.errors import UserError, unknown
from smpcli.files import read_yaml
from smpcli.modeling.backbone import EMBEDDED
from smpcli.paths import RECIPES
from smpcli.tasks.task import Task, find_task

if TYPE_CHECKING:
    from pruners.base import Pruner

DEFAULT_SPARSITY = 0.9
# These say where things are and how the result is shown, not what is computed.
NOT_IN_DIGEST = {"device", "data_dir"}


class RunSettings(BaseModel):
    """Settings that every method shares. Every one has a help text; `smp methods NAME` shows them."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    method: str = Field("smp", description="pruning method, see `smp methods`")
    task: str = Field(description="task, see `smp tasks`, or a csv, tsv, jsonl or parquet file")
    model: str = Field("minilm", description="base model: minilm, a Hugging Face id, or a folder")
    sparsity: float = Field(DEFAULT_SPARSITY, ge=0, lt=1, description="fraction of the prunable weights to prune")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of all randomness")
    epochs: float | None = Field(None, gt=0, le=10_000, description="passes over the training data")
    max_steps: int | None = Field(None, ge=1, le=100_000_000, description="training steps, instead of epochs")
    batch_size: int = Field(32, ge=1, le=65_536, description="training examples a step")
    max_length: int | None = Field(
        None, ge=4, le=1_000_000, description="tokens an example is cut to (default: the task's)"
    )
    head: Literal["auto", "words", "prototype", "classifier"] = Field(
        "auto", description="how labels are read: words (MLM head), prototype, classifier; auto: words or prototype"
    )
    head_scale: float = Field(4.0, gt=0, description="length of the prototype head's rows")
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout everywhere (default: the model's own)")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    evaluations: int = Field(4, ge=1, description="evaluations on the dev data during the run, the last included")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of training's matrix products; auto: bf16 where the hardware has units for it, else fp32"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps")
    data_dir: str | None = Field(None, description="folder of the original data files (default: $SMP_DATA_DIR)")
    dev_file: str | None = Field(None, description="dev examples of your own file (default: a tenth of it)")
    text_column: str | None = Field(None, description="text column of your own file (default: guessed)")
    pair_column: str | None = Field(None, description="second text column of your own file")
    label_column: str | None = Field(None, description="label column of your own file (default: guessed)")


@dataclass(frozen=True)
class Settings:
    """A resolved run: `run` and `method` settings, the task, and the pruner class."""

    run: RunSettings
    method: Any
    task: Task
    pruner: type[Pruner]

    def __getattr__(self, name: str) -> Any:
        # Reads settings.seed for settings.run.seed: the split is between rooms, not for readers.
        if name.startswith("__") or name in ("run", "method", "task", "pruner"):
            raise AttributeError(name)
        return getattr(self.run, name)

    def replace(self, **updates: Any) -> Settings:
        """These settings with some of the run's own changed."""
        return dataclasses.replace(self, run=self.run.model_copy(update=updates))

    def flat(self) -> dict[str, Any]:
        """Every setting under its key; as YAML it is a recipe that repeats the run."""
        return {**self.run.model_dump(), **dataclasses.asdict(self.method)}

    def digested(self) -> dict[str, Any]:
        """The settings that decide what is computed, for the run's digest."""
        return {key: value for key, value in self.flat().items() if key not in NOT_IN_DIGEST}


def resolve(
    recipe: str | None = None, assignments: Iterable[str] = (), flags: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from a recipe (name or file), "key=value" assignments and flags (None: not given).

    Raises UserError for an unknown method, task, recipe or key, and for a value out of range.
    """
    given: dict[str, Any] = read_recipe(recipe) if recipe else {}
    explicit = dict(parse_assignment(text) for text in assignments)
    explicit |= {key: value for key, value in (flags or {}).items() if value is not None}
    if explicit.get("epochs") is not None and explicit.get("max_steps") is not None:
        raise UserError("--epochs and --max-steps exclude each other: give one of them")
    for one, other in (("epochs", "max_steps"), ("max_steps", "epochs")):
        if explicit.get(one) is not None:
            given.pop(other, None)
    given |= explicit
    if not given.get("task"):
        raise UserError("no task: name one with --task (`smp tasks` lists them)")
    method = str(given.get("method", RunSettings.model_fields["method"].default))
    if method not in registry.entries():
        raise unknown("method", method, registry.entries(), "`smp methods` lists them")
    _check_run_values({key: value for key, value in given.items() if key in RunSettings.model_fields})
    task = find_task(
        str(given["task"]),
        text=given.get("text_column"),
        pair=given.get("pair_column"),
        label=given.get("label_column"),
    )
    for key, value in task.defaults.items():
        if key in ("epochs", "max_steps") and (given.get("epochs") or given.get("max_steps")):
            continue
        given.setdefault(key, value)
    try:
        pruner = registry.load(method)
    except registry.PrunerError as error:
        raise UserError(str(error)) from error
    return _validated(given, task, pruner)


def _validated(given: dict[str, Any], task: Task, pruner: type[Pruner]) -> Settings:
    own = {field.name for field in dataclasses.fields(pruner.Settings)}
    common = set(RunSettings.model_fields)
    for key in given:
        if key not in own | common:
            raise unknown("setting", key, own | common, f"`smp methods {pruner.name}` shows them all")
    if not pruner.prunes:
        if given.get("sparsity"):
            raise UserError(f"method '{pruner.name}' doesn't prune: leave --sparsity out, or choose another --method")
        given["sparsity"] = 0.0
    run = _check_run_values({key: value for key, value in given.items() if key in common})
    updates: dict[str, Any] = {}
    if run.epochs is None and run.max_steps is None:
        updates["epochs"] = 3.0
    if run.max_length is None:
        updates["max_length"] = task.max_length
    updates |= _absolute_places(run, task)
    try:
        method = TypeAdapter(pruner.Settings).validate_python(
            {key: value for key, value in given.items() if key in own}
        )
    except ValidationError as error:
        raise invalid(error) from None
    structure = getattr(method, "structure", 1)
    if structure < 1 - run.sparsity:
        raise UserError(
            f"structure={structure:g} has no room for {1 - run.sparsity:.0%} of the weights: give at least "
            f"structure={1 - run.sparsity:g}, or a higher sparsity"
        )
    return Settings(run.model_copy(update=updates), method, task, pruner)


def _absolute_places(run: RunSettings, task: Task) -> dict[str, str]:
    """Files and folders by their whole path, so that a run can be opened again from anywhere."""
    places = {"dev_file": run.dev_file, "data_dir": run.data_dir}
    if task.source.folder and not run.data_dir:
        places["data_dir"] = os.environ.get("SMP_DATA_DIR") or None
    if Path(run.task).suffix and Path(run.task).expanduser().is_file():
        places["task"] = run.task
    if run.model not in EMBEDDED and Path(run.model).expanduser().is_dir():
        places["model"] = run.model
    return {key: str(Path(place).expanduser().absolute()) for key, place in places.items() if place}


def _check_run_values(values: dict[str, Any]) -> RunSettings:
    try:
        return RunSettings(**values)
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> UserError:
    """One line for the first thing that pydantic found."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    more = error.error_count() - 1
    if key == "sparsity":
        return UserError(
            f"sparsity must be at least 0 and below 1, not {first['input']!r}: 0.9 prunes 90 % of the weights"
        )
    if key == "device":
        message = "should be auto, cpu, cuda, cuda:N or mps"
    text = f"setting '{key}': {message}, not {first['input']!r}" if key else f"setting: {message}"
    return UserError(text + (f" (and {more} more)" if more else ""))


def parse_assignment(text: str) -> tuple[str, Any]:
    """ "key=value" of --set; the value is read as YAML, so numbers, true, false and null are what they look like."""
    key, equals, value = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key:
        raise UserError(f"--set takes key=value, not '{text}'")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {key}: can't read the value '{value}'") from None
    # YAML 1.1 takes 1e-3 for a word.
    if isinstance(parsed, str):
        try:
            parsed = float(parsed)
        except ValueError:
            return key, parsed
    return key, parsed


def recipe_names() -> list[str]:
    """Names of the recipes that come with smp, e.g. "smp-paper"."""
    return sorted(
        path.relative_to(RECIPES).with_suffix("").as_posix()
        for path in RECIPES.rglob("*.yaml")
        if path.relative_to(RECIPES).parts[0] != "tasks"
    )


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe by name or by path of a YAML file (a run's settings.yaml is one, too)."""
    if name in recipe_names():
        content = read_yaml(RECIPES / f"{name}.yaml")
    elif name.endswith((".yaml", ".yml")):
        content = read_yaml(Path(name))
    else:
        raise unknown("recipe", name, recipe_names(), "`smp recipes` lists them; a file's name ends in .yaml")
    content.pop("description", None)
    for key in content:
        if not isinstance(key, str):
            raise UserError(f"recipe {name}: the key {key!r} is no name")
    return {key.replace("-", "_"): _number(value) for key, value in content.items() if value is not None}


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
