"""result.json, checked: what a finished run says of itself (docs/result-schema.md)."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Annotated, Any, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from smpcli.errors import Invalid

SCHEMA = 1


class SchemaError(ValueError):
    """result.json isn't what the schema says; `problem` and `remedy` don't name the file."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[FiniteFloat, Field(ge=0)]
Name = Annotated[str, Field(min_length=1)]


class _Block(BaseModel):
    # Keys may be added within a version, so a reader leaves alone what it doesn't know.
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    @model_serializer(mode="wrap")
    def _only_what_is_there(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class RunInfo(_Block):
    id: Name
    method: Name
    task: Name
    model: Name
    sparsity: Annotated[FiniteFloat, Field(ge=0, lt=1)]
    remaining: Annotated[FiniteFloat, Field(ge=0, le=1)]
    seed: int
    settings_digest: str
    command: str
    started: Annotated[str, AfterValidator(_moment)]
    seconds: Seconds


class Weights(_Block):
    total: Count
    prunable: Count
    kept: Count
    trained: Count


class MethodInfo(_Block):
    report: dict[str, Any]


class FileInfo(_Block):
    bytes: Count
    sha256: Name


class CutInfo(_Block):
    unit: Name
    length: Count
    examples: Count
    cut: Count
    tokens: Count
    lost: Count


class LabelCounts(_Block):
    train: dict[str, Count]
    dev: dict[str, dict[str, Count]]


class Ranges(_Block):
    train: tuple[FiniteFloat, FiniteFloat]
    dev: dict[str, tuple[FiniteFloat, FiniteFloat]]


class DataInfo(_Block):
    digest: Name
    origin: str
    train: Count
    dev: dict[str, Count]
    # Came later than the schema's first version: older runs lack them.
    dev_digests: dict[str, Name] = {}
    files: dict[str, FileInfo] = {}
    special_tokens: list[Name] | None = None
    cut: dict[str, CutInfo] = {}
    columns: dict[str, str | None] = {}
    kind: str | None = None
    labels: LabelCounts | None = None
    range: Ranges | None = None
    left_out: dict[str, Count] = {}
    overlap: dict[str, Count] = {}


class ModelInfo(_Block):
    name: Name
    digest: Name
    head: Name
    # Of a words head: what stands for each output. Older runs lack it.
    words: dict[str, str] | None = None
    # Of each block's attention, where all have as many. Older runs lack it.
    heads: Annotated[int, Field(ge=1)] | None = None


class TeacherInfo(_Block):
    name: Name
    digest: Name
    weight: FiniteFloat
    temperature: FiniteFloat
    kl: str


class SelectedInfo(_Block):
    """That dev chose the model: the step, the metric that decided, and among how many evaluations."""

    step: Count
    on: str
    metric: Name
    among: Count


class TrainingInfo(_Block):
    steps: Count
    batch_size: Annotated[int, Field(ge=1)]
    seconds_per_step: Seconds
    metric_history: list[tuple[int, FiniteFloat]]
    # Only where a run had them.
    teacher: TeacherInfo | None = None
    selected: SelectedInfo | None = None


class Environment(_Block):
    smp: str
    python: str
    torch: str
    transformers: str
    platform: str
    device: str
    threads: int
    # Came later than the schema's first version.
    processes: int = 1


class Result(_Block):
    """One finished run. Fractions in [0, 1], metrics as the field defines them, times in seconds, sizes in bytes."""

    # "schema" is a method of pydantic's, so the field has another name here, and its own in JSON.
    model_config = ConfigDict(serialize_by_alias=True)

    version: int = Field(alias="schema")
    run: RunInfo
    metric: Name
    metrics: dict[str, FiniteFloat]
    weights: Weights
    task_bytes: Count
    files: dict[str, Count]
    method: MethodInfo
    data: DataInfo
    model: ModelInfo
    training: TrainingInfo
    environment: Environment
    # Came later than the schema's first version.
    warnings: list[str] = []

    @property
    def value(self) -> float:
        """The task's first metric."""
        return self.metrics[self.metric]

    @model_validator(mode="after")
    def _agree(self) -> Result:
        weights = self.weights
        if self.metric not in self.metrics:
            raise ValueError(f"metrics lacks '{self.metric}'")
        if not weights.kept <= weights.prunable <= weights.total:
            raise ValueError("weights must be kept <= prunable <= total")
        kept = weights.kept / weights.prunable if weights.prunable else 1.0
        if not math.isclose(self.run.remaining, kept, abs_tol=1e-6):
            raise ValueError(f"run.remaining is {self.run.remaining}, but kept / prunable is {kept}")
        return self


def _no_number(name: str) -> NoReturn:
    raise SchemaError(f"it holds {name}, which is not a number")


def parse_result(text: str) -> Result:
    """Read the text of a result.json. Raises `SchemaError`."""
    try:
        raw = json.loads(text, parse_constant=_no_number)
    except SchemaError:
        raise
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"it isn't JSON ({error})") from None
    version = raw.get("schema") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise SchemaError('it has no "schema" number')
    if version > SCHEMA:
        raise SchemaError(f"it has schema {version} and this smp reads up to {SCHEMA}", "upgrade smp")
    try:
        return Result.model_validate_json(text)
    except ValidationError as error:
        raise SchemaError(str(Invalid.of(error))) from None
