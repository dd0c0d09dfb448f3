"""What an export says of itself: enough to load it without the run, and to tell where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    computed_field,
    model_validator,
)

from smpcli.errors import Invalid, UserError, one_line, other_version
from smpcli.files import write_json
from smpcli.tasks.traits import TRAITS, Traits, check_kind, output_names

if TYPE_CHECKING:
    from smpcli.evaluation.recompute import Reopened

# In every export that is a folder.
FILE = "smp.json"
# A description is a page of text; a longer file isn't read.
MOST_BYTES = 2**20

Name = Annotated[str, Field(min_length=1, max_length=1000)]


class About(BaseModel):
    """labels: class names in the order of the logits, of a classification; pairs: whether an example is two texts (of
    a span task: question and context); stride: tokens that windows of a span task's contexts share; words: label
    words, where the head is made of them, with their ids and that of [MASK]; decoder: whether the last token is read
    instead; model, base_digest: the base model and the digest of its weights; special_tokens: those that each text it
    learned from holds, so that special tokens in texts are read as such; where there are none they are split, and
    exports that lack the key don't know.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    format: Name
    version: int
    task: Name
    kind: Annotated[str, AfterValidator(check_kind)]
    labels: list[Name]
    pairs: bool
    max_length: Annotated[int, Field(ge=4, le=1_000_000)]
    stride: Annotated[int, Field(ge=0, le=1_000_000)] | None
    head: Name
    words: list[Name] | None
    word_ids: list[Annotated[int, Field(ge=0)]] | None
    mask_id: Annotated[int, Field(ge=0)] | None
    decoder: bool
    model: Name
    base_digest: Name
    method: Name
    sparsity: FiniteFloat
    remaining: FiniteFloat
    metric: Name
    metrics: dict[str, FiniteFloat]
    # Came later than the first version.
    special_tokens: list[Name] | None = None

    @model_validator(mode="after")
    def _agree(self) -> About:
        traits = self.traits
        if (not traits.outputs) != (len(self.labels) >= 2) or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels don't fit the kind of task")
        if traits.windows != (self.stride is not None) or (traits.squad and not self.pairs):
            raise ValueError("pairs and stride don't fit the kind of task")
        if self.word_ids is not None and len(self.word_ids) != len(self.outputs):
            raise ValueError("word_ids and labels differ in number")
        return self

    @property
    def outputs(self) -> list[str]:
        """What the model's outputs stand for, in order: the classes, "score", or "start" and "end"."""
        return output_names(self.kind, self.labels)

    @property
    def traits(self) -> Traits:
        """What sets its task's kind apart."""
        return TRAITS[self.kind]

    @property
    def form(self) -> tuple[str, str, list[str], list[int] | None, int | None, list[str] | None]:
        """What `rebuild` needs to know besides the base model."""
        return self.kind, self.head, self.labels, self.word_ids, self.mask_id, self.special_tokens

    @computed_field  # type: ignore[prop-decorator]
    @property
    def stock_class(self) -> str:
        """The class of transformers that has a place for everything."""
        if self.word_ids is not None:
            return "AutoModelForCausalLM" if self.decoder else "AutoModelForMaskedLM"
        return self.traits.stock


def describe(run: Reopened, format: str, version: int) -> About:
    """What an export of this run in this format says of itself."""
    result, model = run.directory.result, run.model
    task = run.settings.task
    return About(
        format=format,
        version=version,
        task=task.name,
        kind=task.kind,
        labels=run.labels,
        pairs=task.pair is not None,
        max_length=run.settings.max_length,
        stride=run.settings.stride,
        head=model.head,
        words=run.tokenizer.convert_ids_to_tokens(model.word_ids) if model.word_ids is not None else None,
        word_ids=model.word_ids,
        mask_id=model.mask_id,
        decoder=model.last,
        model=run.settings.run.model,
        base_digest=result.model.digest,
        method=result.run.method,
        sparsity=result.run.sparsity,
        remaining=result.run.remaining,
        metric=result.metric,
        metrics=result.metrics,
        special_tokens=result.data.special_tokens,
    )


def parse_about(raw: Any, where: Path, format: str, version: int) -> About:
    """A description read from a file. Raises UserError, one line that names the file."""
    if not isinstance(raw, dict) or raw.get("format") != format:
        raise UserError(one_line(f"{where} is not an export of smp in the format {format}"))
    if raw.get("version") != version:
        raise other_version(where, raw.get("version"), version, "export it again with `smp export RUN`")
    try:
        return About.model_validate(raw)
    except ValidationError as error:
        raise UserError(one_line(f"damaged export {where}: {Invalid.of(error)}")) from None


def write_about(folder: Path, about: About) -> None:
    write_json(folder / FILE, about.model_dump(mode="json"))


def format_of(folder: Path) -> str | None:
    """The format that a folder says it has; None for what isn't an export."""
    try:
        raw = _read(folder)
    except UserError:
        return None
    return raw.get("format") if isinstance(raw, dict) else None


def read_about(folder: Path, format: str, version: int) -> About:
    """The description of an export that is a folder. Raises UserError."""
    return parse_about(_read(folder), folder, format, version)


def _read(folder: Path) -> Any:
    path = folder / FILE
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"damaged export: {path} is too large")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise UserError(f"damaged export: {path} isn't JSON") from None
