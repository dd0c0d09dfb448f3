"""Export formats: name -> the file of this folder that writes it. A new format is a new file and a line here."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from smpcli.errors import UserError, unknown
from smpcli.files import exclusive
from smpcli.results.rundir import is_run

FORMATS = {
    "mask": "one small file: packed mask and head, over a shared base model",
    "hf": "stock Hugging Face folder, zeros in place; loads without smp",
    "npy": "the mask alone, packed as SMP's authors release theirs",
}


# Largest difference of logits that an export may have (of logits above 1: this part of the largest), and dev examples
# that it is measured on.
TOLERANCE = 1e-5
CHECKED_EXAMPLES = 128


@dataclass(frozen=True)
class Exported:
    """What was written. max_difference: largest difference between the export's logits and the run's.

    examples: how many it was measured on, 0 where bits were compared instead. note: what whoever uses it should know.
    """

    path: Path
    format: str
    bytes: int
    max_difference: float
    examples: int
    note: str = ""


def export_run(
    run: Path, format: str, output: Path | None = None, data_dir: Path | None = None, overwrite: bool = False
) -> Exported:
    """Export a finished run as `format` to `output` (default: exports/RUN-FORMAT).

    The export is written beside its place, verified against the run, and moved there only when it passes.
    Raises UserError for an unknown format, something that is no run, or a place that is taken.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS, "`smp export --help` lists them")
    from smpcli.training.recompute import reopen

    module = import_module(f"smpcli.export.{format}")
    target = output or Path("exports") / (run.resolve().name + module.SUFFIX)
    _check_target(target, format, overwrite)
    reopened = reopen(run, data_dir)
    with exclusive(target):
        exported: Exported = module.write(reopened, target)
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
    if format == "hf":
        alike = target.is_dir() and (target / "config.json").is_file() and not is_run(target)
        alike = alike and all(entry.is_file() for entry in target.iterdir())
    else:
        alike = target.is_file()
    if not alike:
        raise UserError(f"{target} is no export that --overwrite may replace: name another place with --output")


def check_difference(difference: float, largest: float = 1.0) -> None:
    """Refuse an export whose logits are not the run's; `largest` of these is what 32 bits are exact to.

    Raises UserError.
    """
    if not difference <= TOLERANCE * max(1.0, largest):
        raise UserError(
            f"export refused: its logits differ from the run's by {difference:.2e}, more than {TOLERANCE:g}; "
            "`smp eval` on the run tells whether the run itself is sound"
        )
