"""Which run `--resume` means, when the settings given are not quite those of the run that was interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from smpcli.errors import UserError

if TYPE_CHECKING:
    from smpcli.settings import Settings


def refuse_others(settings: Settings, output: Path) -> None:
    """Raise UserError where `output` has no run of these settings, but an interrupted one of others.

    A run's folder is named by its settings, so that with another seed, say, `--resume` would otherwise start over
    without a word. The message lists the differences from the run that has the fewest.
    """
    from smpcli.device import settled
    from smpcli.settings import deciding
    from smpcli.training.checkpoint import INDEX, setting_differences
    from smpcli.training.run import run_id

    settings = settled(settings)
    if (output / run_id(settings)).exists():
        return
    now = settings.digested()
    found: list[tuple[list[str], Path]] = []
    for index in sorted(output.glob(f"*/checkpoint/{INDEX}")):
        path = index.parent.parent
        then = deciding(_settings(path))
        if then and not (path / "result.json").exists():
            found.append((setting_differences(then, now), path))
    if found:
        differences, path = min(found, key=lambda one: len(one[0]))
        raise UserError(
            f"no run of these settings to resume in {output}: {path.name} differs in {', '.join(differences)}",
            "give its settings, or leave --resume out",
        )


def _settings(path: Path) -> dict[str, Any]:
    from smpcli.runs.rundir import RunDir

    try:
        return RunDir(path).settings
    except UserError:
        return {}
