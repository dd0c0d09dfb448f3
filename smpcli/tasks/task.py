"""What a task is: where its data come from, its columns, labels, label words and metrics. One YAML file each.

A task knows nothing of models, masks or methods. Reading a task's rows is `data.py`'s business.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from smpcli.errors import Invalid, UserError, one_line, unknown
from smpcli.files import expanded, is_file, is_folder
from smpcli.paths import RECIPES
from smpcli.tasks import own, squad
from smpcli.tasks.tables import FORMATS, read_table
from smpcli.tasks.traits import TRAITS, Traits, check_kind, output_names
from smpcli.yaml_text import read_yaml


class Source(BaseModel):
    """Where the rows are: a data set on the hub, a folder of files below --data-dir, both, or files of one's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hub: str | None = None  # data set on the hub, as `datasets.load_dataset` names it
    config: str | None = None  # and its configuration
    train_split: str = "train"
    dev_splits: dict[str, str] = {"dev": "validation"}  # our name of a dev set -> the hub's split

    folder: str | None = None  # sub-folder of --data-dir
    train_file: str = "train.tsv"
    dev_files: dict[str, str] = {"dev": "dev.tsv"}  # our name of a dev set -> file in the folder
    header: list[str] | None = None  # the columns of files without a header line
    rename: dict[str, str] = {}  # column in the folder's files -> column as the task calls it
    drop_incomplete: bool = False  # leave out rows that lack columns or text, as the hub's copy of QQP does

    file: Path | None = None  # a file of one's own (in a YAML: relative to the YAML)
    dev_file: Path | None = None  # and one to evaluate on; without it a tenth of `file` is kept for that

    package: Literal["movies"] | None = None  # made from a package of the index: see movies.py
    score_range: tuple[float, float] | None = None  # regression: labels outside are refused

    @field_validator("hub")
    @classmethod
    def _on_the_hub(cls, name: str | None) -> str | None:
        # A single word would be one of the client's own readers, such as that of pickled tables.
        if name is not None and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
            raise ValueError("a data set on the hub is called owner/name")
        return name

    @field_validator("folder", "train_file", "dev_files")
    @classmethod
    def _inside(cls, names: Any) -> Any:
        for name in names.values() if isinstance(names, dict) else filter(None, [names]):
            if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
                raise ValueError(f"'{one_line(name, 60)}' leads out of the data folder")
        return names

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(bool(place) for place in (self.hub or self.folder, self.file, self.package)) != 1:
            raise ValueError("name one place: hub, folder (or both), file, or package")
        if self.config and not self.hub:
            raise ValueError("config belongs to hub, which is not there")
        if self.dev_file and not self.file:
            raise ValueError("dev_file belongs to file, which is not there")
        if not self.dev_splits or (self.hub and self.folder and self.dev_splits.keys() != self.dev_files.keys()):
            raise ValueError("dev_splits and dev_files must name the same dev sets, at least one")
        return self


class Task(BaseModel):
    """A task as its YAML file describes it. `labels[i]` is the name of class i; regression and span have none.

    A span task's `text` is the question, `pair` the context that holds the answer, `label` the answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    title: str
    kind: Annotated[str, AfterValidator(check_kind)]
    text: str
    pair: str | None = None
    label: str
    labels: list[str] = []
    label_values: dict[str, str] = {}
    unlabelled: list[str] = []  # what rows without a label have in its place: they are left out
    words: dict[str, str] = {}
    released_words: dict[str, str] = {}  # those that the masks on SMP's release page were trained with
    metrics: list[str] = Field(min_length=1)
    max_length: int = Field(default=128, ge=4)
    stride: int | None = Field(default=None, ge=0)  # span: tokens that neighbouring windows of a context share
    train_rows: int | None = Field(default=None, ge=1)
    dev_rows: int | None = Field(default=None, ge=1)
    defaults: dict[str, Any] = {}
    source: Source

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        labels, traits = set(self.labels), self.traits
        if len({self.text, self.pair, self.label}) < 3:
            raise ValueError("text, pair and label must be different columns")
        if traits.outputs and (labels or self.label_values):
            raise ValueError(f"{self.kind} has {traits.labels} for labels: leave out labels and label_values")
        if traits.windows != (self.stride is not None):
            raise ValueError("kind span needs stride, and no other kind has one")
        if traits.squad and (not self.pair or len(self.dev_sets) > 1):
            raise ValueError("kind span needs pair (the column of the context), and one dev set")
        if not traits.outputs and (len(labels) < 2 or len(labels) < len(self.labels)):
            raise ValueError("labels must name at least two classes, in the order of their ids, each once")
        if traits.labels != "numbers" and self.source.score_range:
            raise ValueError("source.score_range is for regression")
        if strange := sorted(set(self.label_values.values()) - labels):
            raise ValueError(f"label_values: '{strange[0]}' is not one of labels {self.labels}")
        if self.unlabelled and traits.squad:
            raise ValueError("span has answers for labels: leave out unlabelled")
        if both := sorted(set(self.unlabelled) & (labels | self.label_values.keys())):
            raise ValueError(f"unlabelled: '{both[0]}' is a label")
        wanted = set(self.outputs)
        for key, words in (("words", self.words), ("released_words", self.released_words)):
            if words and words.keys() != wanted:
                raise ValueError(f"{key} must have one word for each of {sorted(wanted)}")
            if len(set(words.values())) < len(words):
                raise ValueError(f"{key}: two labels have the same word")
        for metric in self.metrics:
            if metric not in traits.metrics:
                known = ", ".join(traits.metrics)
                raise ValueError(f"metrics: '{metric}' isn't one for {self.kind}; known: {known}")
        if labels and "f1" in self.metrics and len(labels) != 2:
            raise ValueError("metrics: f1 is that of the second of two labels; take macro_f1 for more")
        return self

    @property
    def outputs(self) -> list[str]:
        """What the model's outputs stand for, in order: the classes, "score", or "start" and "end"."""
        return output_names(self.kind, self.labels)

    @property
    def traits(self) -> Traits:
        """What sets its kind apart."""
        return TRAITS[self.kind]

    @property
    def columns(self) -> list[str]:
        """The columns that are read: text, second text where there is one, label."""
        return [column for column in (self.text, self.pair, self.label) if column is not None]

    @property
    def dev_sets(self) -> list[str]:
        """Names of the dev sets, the main one first."""
        if self.source.file or self.source.package:
            return ["dev"]
        return list(self.source.dev_splits if self.source.hub else self.source.dev_files)

    @property
    def metric(self) -> str:
        """*The* metric, as a result names it: the first one, on the main dev set."""
        return metric_name(self.metrics[0], self.dev_sets[0])


def metric_name(metric: str, dev_set: str) -> str:
    """A dev set that has a name of its own has it in its metrics: accuracy_matched, accuracy_mismatched."""
    return metric if dev_set == "dev" else f"{metric}_{dev_set}"


def is_built_in(name: str | None) -> bool:
    """Whether this is what --task was given for one of smp's own tasks: a file of the same name is another task."""
    return name in {path.stem for path in (RECIPES / "tasks").glob("*.yaml")}


def list_tasks() -> list[Task]:
    """The built-in tasks, by name."""
    return [load_yaml(path) for path in sorted((RECIPES / "tasks").glob("*.yaml"))]


def find_task(name: str, *, text: str | None = None, pair: str | None = None, label: str | None = None) -> Task:
    """A built-in task by name, a task YAML by path, or a csv, tsv, jsonl, parquet or (SQuAD) json file as a task.

    `text`, `pair` and `label` name the columns of such a data file; without them they are guessed by their usual
    names, and the result's title says what was taken. Its labels are counted: sorted, numbers by value, and numbers
    that are not a small set of whole ones make it a regression. Raises `UserError`.
    """
    built_in = {path.stem: path for path in sorted((RECIPES / "tasks").glob("*.yaml"))}
    path = expanded(name)
    suffix = path.suffix.lower()
    if suffix in FORMATS and name not in built_in:
        return _own_file(path.absolute(), text, pair, label)
    if text or pair or label:
        raise UserError(f"columns can be named for a data file of your own; task '{name}' has its own columns")
    if name in built_in:
        return load_yaml(built_in[name])
    if suffix == ".json":
        return _own_squad(path.absolute())
    if suffix in (".yaml", ".yml"):
        return load_yaml(path.absolute())
    if is_folder(path):
        raise UserError(f"{name} is a folder", "--task takes a task's name or a file; a folder goes to --data-dir")
    if is_file(path) or suffix in (".txt", ".xlsx", ".gz", ".zip"):
        read_table(path)  # says which endings there are
    raise unknown(
        "task", name, built_in, "`smp tasks` lists them; or give a csv, tsv, jsonl, parquet, json or yaml file"
    )


def _own_file(path: Path, text: str | None, pair: str | None, label: str | None) -> Task:
    table = read_table(path)
    text, pair, label = own.columns(table, text, pair, label)
    kind, labels, unlabelled = own.kind_and_labels(table, label)
    what = f"{len(labels)} classes" if labels else kind
    texts = f"'{text}'" + (f" + '{pair}'" if pair else "")
    return Task(
        name=path.stem,
        title=f"{path.name}: {texts} -> '{label}', {what}",
        kind=kind,
        text=text,
        pair=pair,
        label=label,
        labels=labels,
        unlabelled=unlabelled,
        metrics=list(TRAITS[kind].usual),
        source=Source(file=path),
    )


def _own_squad(path: Path) -> Task:
    found = len(squad.read_squad(path))
    return Task(
        name=path.stem,
        title=f"{path.name}: {found:,} questions, each with a context that holds the answer",
        kind="span",
        text="question",
        pair="context",
        label="answers",
        words={"start": "Yes", "end": "No"},
        metrics=list(TRAITS["span"].usual),
        max_length=384,
        stride=128,
        source=Source(file=path),
    )


def load_yaml(path: Path) -> Task:
    """Read and check a task's YAML file; `name` is the file's stem where it isn't given.

    Raises `UserError`, one line that names the file and the key.
    """
    values = {"name": path.stem, **read_yaml(path)}
    source = values.get("source")
    if isinstance(source, dict):
        # `file` is relative to the YAML, so that the two can travel together
        near = {key: path.parent / source[key] for key in ("file", "dev_file") if isinstance(source.get(key), str)}
        values["source"] = source | near
        if "file" in near and values.get("kind") == "classification" and not values.get("labels"):
            table, label = read_table(near["file"]), str(values.get("label"))
            given = values.get("unlabelled")
            named = [str(name) for name in given] if isinstance(given, list) else None
            counts, unlabelled = own.meant(own.count(table, label), named)
            values = {"unlabelled": unlabelled, **values, "labels": own.class_names(table, label, counts)}
    try:
        return Task.model_validate(values)
    except ValidationError as error:
        raise _invalid(path, error) from None


def _invalid(path: Path, error: ValidationError) -> UserError:
    """pydantic's first complaint as one line; the rest are counted."""
    first = Invalid.of(error)
    if first.kind == "extra_forbidden":
        model = Source if first.location[0] == "source" else Task
        return unknown(
            f"key in {path}:", first.key, model.model_fields, f"docs/tasks.md lists the keys{first.and_more}"
        )
    if first.kind == "missing":
        return UserError(f"{path}: the key {first.key} is missing{first.and_more}")
    if first.kind == "string_type" and isinstance(first.value, bool | int | float):
        # YAML reads Yes, No, on, off as truth values, and 0 as a number
        text = "YAML takes Yes, No, on, off and numbers for something else than text"
        return UserError(f"{path}: {first.key}: {text}{first.and_more}", "put it in quotes")
    return UserError(one_line(f"{path}: {first}"))
