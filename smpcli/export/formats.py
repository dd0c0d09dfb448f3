"""Export formats: name -> the file of this folder that writes and loads it. A new one is a file and a line here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pruners.registry import Registry
from smpcli.errors import UserError, unknown
from smpcli.files import exclusive

if TYPE_CHECKING:
    from smpcli.evaluation.recompute import Reopened
    from smpcli.export.ready import Ready
    from smpcli.export.verify import Verified

# The formats that cut matrices down, and so may drop thin rows.
SHRINKING = ("compact", "sparse", "onnx")
FULL = "fp32"
PRECISIONS = {"compact": (FULL, "bf16"), "onnx": (FULL, "int8")}


@dataclass(frozen=True)
class Exported:
    """What was written, and what a new process found in it; None where every bit was compared with the run's instead.

    about, remarks: what a format has to say of its own (e.g. the share of the matrices' area that is left), as values
    and as lines to read.
    """

    path: Path
    format: str
    bytes: int
    verified: Verified | None
    about: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def max_difference(self) -> float:
        """Largest difference between the export's logits (or bits) and the run's."""
        return self.verified.difference if self.verified else 0.0

    @property
    def examples(self) -> int:
        """Examples that logits were compared on; 0 where bits were."""
        return self.verified.examples if self.verified else 0


class Format(Protocol):
    """What the file of a format holds. SUFFIX: of the default name."""

    SUFFIX: str

    def write(self, run: Reopened, target: Path, **options: Any) -> Exported:
        """Write an export, and verify it before anything is in place (verify.py). options: of those that shrink."""

    def is_one(self, path: Path) -> bool:
        """Whether a path holds this format."""

    def load(self, path: Path, model: str | None) -> Ready:
        """The module, ready to use; model: where the base model is, if elsewhere than when it was made."""


FORMATS: Registry[Format] = Registry(
    "format",
    {
        "mask": ("smpcli.export.mask", "one small file: mask and head, over a base model that tasks share"),
        "hf": ("smpcli.export.hf", "stock Hugging Face folder, zeros in place; loads without smp"),
        "npy": ("smpcli.export.npy", "the mask alone, packed as SMP's authors release theirs"),
        "compact": (
            "smpcli.export.compact",
            "smaller dense matrices of the same function (BERT-like models); loads with smp",
        ),
        "sparse": (
            "smpcli.export.sparse",
            "the compact model on sparse kernels, where they are faster on this machine",
        ),
        "onnx": ("smpcli.export.onnx", "the compact model for onnxruntime"),
    },
    "`smp export --help` lists them",
)


def export_run(
    run: Path,
    format: str,
    output: Path | None = None,
    data_dir: Path | None = None,
    overwrite: bool = False,
    drop_rows_below: int = 0,
    precision: str = FULL,
) -> Exported:
    """Export a finished run as `format` to `output` (default: exports/RUN-FORMAT).

    drop_rows_below, precision: see `smpcli.export.compact`; for the formats that shrink. The export is written beside
    its place, verified against the run, and moved there only when it passes. Raises UserError for an unknown format,
    something that isn't a run, or a place that is taken.
    """
    FORMATS.require(format)
    from smpcli.evaluation.recompute import reopen

    options = _options(format, drop_rows_below, precision)
    module = FORMATS.load(format)
    suffix = module.SUFFIX + ("" if precision == FULL else f"-{precision}")
    target = output or Path("exports") / (run.resolve().name + suffix)
    _check_target(target, module, overwrite)
    reopened = reopen(run, data_dir)
    with exclusive(target):
        return module.write(reopened, target, **options)


def _options(format: str, drop_rows_below: int, precision: str) -> dict[str, Any]:
    """What `write` of a format takes beside run and target. Raises UserError for what isn't for this format."""
    if drop_rows_below and format not in SHRINKING:
        raise UserError(
            f"--drop-rows-below is for --format {', '.join(SHRINKING[:-1])} or {SHRINKING[-1]}, not for {format}"
        )
    if precision not in PRECISIONS.get(format, (FULL,)):
        formats = [f"--format {name}" for name, known in PRECISIONS.items() if precision in known]
        raise (
            UserError(f"--precision {precision} is for {' or '.join(formats)}, not for {format}")
            if formats
            else unknown("precision", precision, {one for known in PRECISIONS.values() for one in known})
        )
    return {"drop_rows_below": drop_rows_below, "precision": precision} if format in SHRINKING else {}


def _check_target(target: Path, module: Format, overwrite: bool) -> None:
    """Refuse a place that can't be written, is taken, or holds anything but an export of this format."""
    from smpcli.training.needs import check_output

    check_output(target.parent)
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target} exists already", "name another place with --output, or add --overwrite")
    # Our folders hold files only.
    alike = module.is_one(target) and (target.is_file() or all(entry.is_file() for entry in target.iterdir()))
    if not alike:
        raise UserError(f"{target} is not an export that --overwrite may replace", "name another place with --output")
