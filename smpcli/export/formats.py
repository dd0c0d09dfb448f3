"""Export formats: name -> the file of this folder that writes it. A new format is a new file and a line here."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from smpcli.errors import UserError, unknown
from smpcli.results.rundir import is_run

FORMATS = {
    "mask": "one small file: packed mask and head, over a shared base model",
    "hf": "stock Hugging Face folder, zeros in place; loads without smp",
    "compact": "smaller dense matrices of the same function (BERT-like models); loads with smp",
    "sparse": "the compact model on sparse kernels, where they are faster on this machine",
    "onnx": "the compact model for onnxruntime",
}
# The formats that cut matrices down, and so may drop thin rows.
SHRINKING = ("compact", "sparse", "onnx")
FULL = "fp32"
PRECISIONS = {"compact": (FULL, "bf16"), "onnx": (FULL, "int8")}

# Largest difference of logits that an export may have, and dev examples that it is measured on.
TOLERANCE = 1e-5
CHECKED_EXAMPLES = 128


@dataclass(frozen=True)
class Exported:
    """What was written. max_difference: largest difference between the export's logits and the run's.

    about, remarks: what a format has to say of its own (e.g. the share of the matrices' area that is left), as values
    and as lines to read.
    """

    path: Path
    format: str
    bytes: int
    max_difference: float
    examples: int
    about: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


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
    something that is no run, or a place that is taken.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS, "`smp export --help` lists them")
    from smpcli.training.recompute import reopen

    if drop_rows_below and format not in SHRINKING:
        raise UserError(f"--drop-rows-below is for --format {', '.join(SHRINKING)}; not for {format}")
    if precision not in PRECISIONS.get(format, (FULL,)):
        able = [f"--format {name}" for name, known in PRECISIONS.items() if precision in known]
        raise (
            UserError(f"--precision {precision} is for {' and '.join(able)}, not for {format}")
            if able
            else unknown("precision", precision, {one for known in PRECISIONS.values() for one in known})
        )
    options: dict[str, Any] = {}
    if format in SHRINKING:
        options = {"drop_rows_below": drop_rows_below, "precision": precision}
    module = import_module(f"smpcli.export.{format}")
    suffix = module.SUFFIX + ("" if precision == FULL else f"-{precision}")
    target = output or Path("exports") / (run.resolve().name + suffix)
    _check_target(target, format, overwrite)
    reopened = reopen(run, data_dir)
    exported: Exported = module.write(reopened, target, **options)
    return exported


def _check_target(target: Path, format: str, overwrite: bool) -> None:
    """Refuse a place that can't be written, is taken, or holds anything but an export of this format."""
    from smpcli.training.plan import check_output

    check_output(target.parent)
    if not target.exists():
        return
    if not overwrite:
        raise UserError(f"{target} exists already: name another place with --output, or add --overwrite")
    # A stock folder holds files only, its config.json among them; a mask is a file.
    if format in SHRINKING:
        alike = target.is_dir() and (target / "compact.json").is_file()
        alike = alike and all(entry.is_file() for entry in target.iterdir())
    elif format == "hf":
        alike = target.is_dir() and (target / "config.json").is_file() and not is_run(target)
        alike = alike and all(entry.is_file() for entry in target.iterdir())
    else:
        alike = target.is_file()
    if not alike:
        raise UserError(f"{target} is no export that --overwrite may replace: name another place with --output")


def check_difference(difference: float) -> None:
    """Refuse an export whose logits are not the run's. Raises UserError."""
    if not difference <= TOLERANCE:
        raise UserError(
            f"export refused: its logits differ from the run's by {difference:.2e}, more than {TOLERANCE:g}; "
            "`smp eval` on the run tells whether the run itself is sound"
        )
