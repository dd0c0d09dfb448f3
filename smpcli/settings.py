"""Settings of a run: recipe + flags, validated before anything heavy is imported.

Keys are flat: a run's own (`RunSettings`) and the method's (its `Settings` dataclass). Later sources win:
defaults < the task's defaults < --recipe < --set and flags.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from pruners.errors import SettingError
from pruners.methods import METHODS
from smpcli.errors import Invalid, UserError, one_line, unknown
from smpcli.files import expanded, is_file, is_folder
from smpcli.modeling.backbone import EMBEDDED
from smpcli.modeling.spec import ModelSpec
from smpcli.paths import RECIPES
from smpcli.tasks.task import Task, find_task
from smpcli.yaml_text import BrokenYaml, parse_yaml, read_yaml

if TYPE_CHECKING:
    from pruners.base import Pruner

DEFAULT_SPARSITY = 0.9
# Where things are, and how something is computed, don't change the result.
NOT_IN_DIGEST = {"device", "data_dir", "gradient_checkpointing", "graph", "checkpoint_every", "data_workers"}
# Settings that came later, at the value that runs before them had: left out, so that those keep name and digest.
AS_BEFORE = {"select": "last", "penalty_start": 0.0, "penalty_end": 1.0}
TEACHER = {"teacher", "teacher_weight", "teacher_temperature", "teacher_kl"}


class RunSettings(BaseModel):
    """Settings that every method shares. Every one has a help text; `smp methods NAME` shows them."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    method: str = Field("smp", description="pruning method, see `smp methods`")
    task: str = Field(description="task, see `smp tasks`, or a csv, tsv, jsonl, parquet or SQuAD json file")
    model: str = Field("minilm", description="base model: minilm, a Hugging Face id, or a folder")
    sparsity: float = Field(DEFAULT_SPARSITY, ge=0, lt=1, description="fraction of the prunable weights to prune")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of all randomness")
    epochs: float | None = Field(None, gt=0, le=10_000, description="passes over the training data")
    max_steps: int | None = Field(None, ge=1, le=100_000_000, description="training steps, instead of epochs")
    batch_size: int = Field(32, ge=1, le=65_536, description="training examples a step")
    bucket_window: int = Field(
        50,
        ge=1,
        le=1_000_000,
        description="batches inside which examples are sorted by length, for less padding; 1: a plain random order",
    )
    micro_batches: int = Field(
        1, ge=1, le=65_536, description="buckets of similar length a batch is made of, computed one after another"
    )
    max_length: int | None = Field(
        None, ge=4, le=1_000_000, description="tokens an example is cut to (default: the task's)"
    )
    stride: int | None = Field(
        None, ge=0, description="tokens that windows of a long context share, in a span task (default: the task's)"
    )
    head: Literal["auto", "words", "prototype", "classifier"] = Field(
        "auto", description="how labels are read: words (MLM head), prototype, classifier; auto: words or prototype"
    )
    head_scale: float = Field(4.0, gt=0, description="length of the prototype head's rows")
    dropout: float | None = Field(None, ge=0, lt=1, description="dropout everywhere (default: the model's own)")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    evaluations: int = Field(4, ge=1, description="evaluations on the dev data during the run, the last included")
    select: Literal["last", "best"] = Field(
        "last",
        description="what a run ends as: its last model, or that of the best dev evaluation at the final density",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of training's matrix products; auto: bf16 where the hardware has units for it, else fp32"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations twice instead of keeping them: less memory, slower steps"
    )
    graph: Literal["auto", "off"] = Field(
        "auto",
        description="the model's passes as CUDA graphs, launched at once, where the model allows it; off: kernel by "
        "kernel",
    )
    teacher: str | None = Field(
        None, description="knowledge distillation: a dense run's folder, or a fine-tuned Hugging Face id or folder"
    )
    teacher_weight: float = Field(0.5, ge=0, le=1, description="share of the loss that the teacher's answers have")
    teacher_temperature: float = Field(2.0, gt=0, description="T that teacher's and student's logits are divided by")
    teacher_kl: Literal["reverse", "forward"] = Field(
        "reverse", description="reverse: KL(student || teacher), as in SMP's paper; forward: KL(teacher || student)"
    )
    checkpoint_every: int | str = Field(
        "5m", description="steps (500) or minutes (5m) between checkpoints; 0: none but at Ctrl-C"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps")
    data_workers: int = Field(
        0, ge=0, le=64, description="processes that put batches together beside the training; same results"
    )
    data_dir: str | None = Field(None, description="folder of the original data files (default: $SMP_DATA_DIR)")
    dev_file: str | None = Field(None, description="dev examples of your own file (default: a tenth of it)")
    text_column: str | None = Field(None, description="text column of your own file (default: guessed)")
    pair_column: str | None = Field(None, description="second text column of your own file")
    label_column: str | None = Field(None, description="label column of your own file (default: guessed)")

    @property
    def spec(self) -> ModelSpec:
        """What of a run decides which model is built."""
        return ModelSpec(self.model, self.head, self.dropout, self.gradient_checkpointing)

    @field_validator("checkpoint_every")
    @classmethod
    def _steps_or_minutes(cls, value: int | str) -> int | str:
        if not re.fullmatch(r"\d{1,9}|\d{1,6}(\.\d+)? ?m", str(value)):
            raise ValueError("neither steps nor minutes")
        return value if str(value).endswith("m") else int(value)


@dataclass(frozen=True)
class Settings:
    """A resolved run: `run` and `method` settings, the task, and the pruner class."""

    run: RunSettings
    method: Any
    task: Task
    pruner: type[Pruner]

    @property
    def trains(self) -> bool:
        """Whether there is anything to train: scores, weights, or a classifier head. If not, a run has no steps."""
        return self.pruner.trains_scores or self.pruner.trains_weights or self.run.head == "classifier"

    @property
    def max_length(self) -> int:
        """Tokens that a text, or a window, is cut to: where the run names none, the task's."""
        assert self.run.max_length is not None, "resolve() fills it in"
        return self.run.max_length

    @property
    def stride(self) -> int | None:
        """Tokens that windows of a long context share; None for other tasks than spans."""
        return self.run.stride

    def replace(self, **updates: Any) -> Settings:
        """These settings with some of the run's own changed."""
        return dataclasses.replace(self, run=self.run.model_copy(update=updates))

    def flat(self) -> dict[str, Any]:
        """Every setting under its key; as YAML it is a recipe that repeats the run."""
        # Without a teacher nothing about one: such runs keep the names that they had before there were teachers.
        run = self.run.model_dump(exclude=set() if self.run.teacher else TEACHER)
        return {**run, **dataclasses.asdict(self.method)}

    def digested(self) -> dict[str, Any]:
        """The settings that decide what is computed, for the run's digest."""
        return deciding(self.flat())


def deciding(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Of all settings by key, those that decide what is computed and aren't as they were before there was the key."""
    return {
        key: value
        for key, value in flat.items()
        if key not in NOT_IN_DIGEST and not (key in AS_BEFORE and value == AS_BEFORE[key])
    }


def resolve(recipe: str | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from a recipe (name or file) and flags (None: not given), which win.

    Raises UserError for an unknown method, task, recipe or key, and for a value out of range.
    """
    given: dict[str, Any] = read_recipe(recipe) if recipe is not None else {}
    explicit = {key: value for key, value in (flags or {}).items() if value is not None}
    if explicit.get("epochs") is not None and explicit.get("max_steps") is not None:
        raise UserError("--epochs and --max-steps are mutually exclusive", "give one of them")
    for one, other in (("epochs", "max_steps"), ("max_steps", "epochs")):
        if explicit.get(one) is not None:
            given.pop(other, None)
    sources = {key: f"recipe {one_line(str(recipe), 80)}" for key in given if key not in explicit}
    given |= explicit
    if not given.get("task"):
        raise UserError("no task", "name one with --task (`smp tasks` lists them)")
    method = str(given.get("method", RunSettings.model_fields["method"].default))
    METHODS.require(method, f"in {sources['method']}" if "method" in sources else "")
    _check_run_values({key: value for key, value in given.items() if key in RunSettings.model_fields}, sources)
    task = find_task(
        str(given["task"]),
        text=given.get("text_column"),
        pair=given.get("pair_column"),
        label=given.get("label_column"),
    )
    for key, value in task.defaults.items():
        if key in ("epochs", "max_steps") and (given.get("epochs") or given.get("max_steps")):
            continue
        if key not in given:
            given[key] = value
            sources[key] = f"task {task.name}"
    return _validated(given, task, METHODS.load(method), sources)


def _validated(given: dict[str, Any], task: Task, pruner: type[Pruner], sources: Mapping[str, str]) -> Settings:
    own = {field.name for field in dataclasses.fields(pruner.Settings)}
    common = set(RunSettings.model_fields)
    for key in given:
        if key not in own | common:
            where = f"in {sources[key]}, and " if key in sources else ""
            raise unknown("setting", key, own | common, f"{where}`smp methods {pruner.name}` shows them all")
    if given.get("teacher") is None and (lonely := sorted(TEACHER & given.keys())):
        raise UserError(f"setting '{lonely[-1]}' needs a teacher", "add --set teacher=FOLDER, or leave it out")
    if not pruner.prunes:
        if given.get("sparsity"):
            raise UserError(
                f"method '{pruner.name}' doesn't prune", "leave --sparsity out, or choose another --method"
            )
        given["sparsity"] = 0.0
    run = _check_run_values({key: value for key, value in given.items() if key in common}, sources)
    updates: dict[str, Any] = {}
    if run.epochs is None and run.max_steps is None:
        updates["epochs"] = 3.0
    if run.max_length is None:
        updates["max_length"] = task.max_length
    if run.stride is None:
        updates["stride"] = task.stride
    elif not task.traits.windows:
        raise UserError(f"setting 'stride' is for span tasks such as squad; task '{task.name}' is a {task.kind}")
    updates |= _absolute_places(run, task)
    try:
        method = TypeAdapter(pruner.Settings).validate_python(
            {key: value for key, value in given.items() if key in own}
        )
    except ValidationError as error:
        raise invalid(error, sources) from None
    structure: float | str = getattr(method, "structure", 1.0)
    if isinstance(structure, float) and structure < 1 - run.sparsity:
        raise UserError(
            f"structure={structure:g} has no room for {1 - run.sparsity:.0%} of the weights",
            f"give at least structure={1 - run.sparsity:g}, or a higher sparsity",
        )
    settings = Settings(run.model_copy(update=updates), method, task, pruner)
    if run.teacher and not settings.trains:
        raise UserError(
            f"method '{pruner.name}' trains nothing, so it has no use for a teacher",
            "leave it out, or train a head with --set head=classifier",
        )
    return settings


def _absolute_places(run: RunSettings, task: Task) -> dict[str, str]:
    """Files and folders by their whole path, so that a run can be opened again from anywhere."""
    places = {"dev_file": run.dev_file, "data_dir": run.data_dir}
    if task.source.folder and not run.data_dir:
        places["data_dir"] = os.environ.get("SMP_DATA_DIR") or None
    if Path(run.task).suffix and is_file(expanded(run.task)):
        places["task"] = run.task
    if run.model not in EMBEDDED and is_folder(expanded(run.model)):
        places["model"] = run.model
    if run.teacher and is_folder(expanded(run.teacher)):
        places["teacher"] = run.teacher
    return {key: str(expanded(place).absolute()) for key, place in places.items() if place}


def _check_run_values(values: dict[str, Any], sources: Mapping[str, str]) -> RunSettings:
    try:
        return RunSettings(**values)
    except ValidationError as error:
        raise invalid(error, sources) from None


def invalid(error: ValidationError, sources: Mapping[str, str] | None = None) -> UserError:
    """One line for the first thing that pydantic found; `sources`: where settings come from that no flag gave."""
    first = Invalid.of(error)
    if isinstance(first.raised, SettingError):
        # A method checks its own settings.
        key, message, more = first.raised.name, first.raised.problem, 0
    elif not first.location:
        return UserError(f"settings: {first.text}")
    else:
        key, others = str(first.location[0]), error.errors(include_url=False)[1:]
        # Of a setting that is a number or a word, pydantic says both.
        words = [other for other in others if other["type"] == "literal_error" and other["loc"][0] == key]
        message = _reworded(first.text) + "".join(f" or {word['ctx']['expected']}" for word in words)
        message = f"{_SPECIAL.get(key, message)}, not {one_line(repr(first.value), 60)}"
        more = len({other["loc"][0] for other in others} - {key}) if key not in _SPECIAL else 0
    where = f"{source}: " if (source := (sources or {}).get(key)) else ""
    remedy = "0.9 prunes 90 % of the weights" if key == "sparsity" else ""
    return UserError(f"{where}setting '{key}' {message}" + (f" (and {more} more)" if more else ""), remedy)


def _reworded(text: str) -> str:
    """What pydantic says, as methods say it of their own settings."""
    text = text.partition(", unable to")[0]
    text = f"{text[:1].lower()}{text[1:]}"
    for theirs, ours in _WORDINGS.items():
        text = text.replace(theirs, ours)
    return text


_WORDINGS = {
    "input should be": "must be",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "less than": "below",
    "greater than": "above",
}
_SPECIAL = {
    "sparsity": "must be at least 0 and below 1",
    "device": "must be auto, cpu, cuda, cuda:N or mps",
    "checkpoint_every": "must be steps (500) or minutes (5m); 0 for none",
}


def parse_assignment(text: str) -> tuple[str, Any]:
    """ "key=value" of --set; the value is read as YAML, so numbers, true, false and null are what they look like."""
    key, equals, value = text.partition("=")
    key = key.strip().replace("-", "_")
    if not equals or not key:
        raise UserError(f"--set takes key=value, not '{one_line(text, 80)}'")
    try:
        parsed = parse_yaml(value)
    except BrokenYaml:
        raise UserError(f"--set {key}: can't read the value '{one_line(value, 80)}'") from None
    if parsed is None:
        raise UserError(f"--set {one_line(text, 80)}: no value", "leave it out for the default")
    return key, parsed


def recipe_names() -> list[str]:
    """Names of the recipes that come with smp, e.g. "smp-paper"."""
    return sorted(
        path.relative_to(RECIPES).with_suffix("").as_posix()
        for path in RECIPES.rglob("*.yaml")
        if path.relative_to(RECIPES).parts[0] not in ("tasks", "sweeps", "published.yaml")
    )


def read_recipe(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A recipe by name or by path of a YAML file (a run's settings.yaml is one, too).

    `extends: NAME` in it takes over another recipe's keys, which its own overrule; `above` are the recipes that came
    here by that.
    """
    if name in above:
        raise UserError(f"recipe {name} extends itself: {' -> '.join((*above, name))}")
    if name in recipe_names():
        content = read_yaml(RECIPES / f"{name}.yaml")
    elif name.endswith((".yaml", ".yml")):
        content = read_yaml(Path(name))
    else:
        if is_file(Path(name)):
            raise UserError(f"recipe {name}: a recipe file's name must end in .yaml")
        raise unknown("recipe", name, recipe_names(), "`smp recipes` lists them; a file's name ends in .yaml")
    content.pop("description", None)
    base = content.pop("extends", None)
    for key in content:
        if not isinstance(key, str):
            raise UserError(f"recipe {name}: the key {key!r} is not a name")
    own = {key.replace("-", "_"): value for key, value in content.items() if value is not None}
    if base is None:
        return own
    inherited = read_recipe(str(base), (*above, name))
    for one, other in (("epochs", "max_steps"), ("max_steps", "epochs")):
        if one in own:
            inherited.pop(other, None)
    return inherited | own
