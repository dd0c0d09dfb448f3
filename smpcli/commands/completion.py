"""What the Tab key offers: names that smp knows, and runs that are there. What it needs is imported at the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

#: A value and what is shown beside it.
Offer = tuple[str, str]


def methods(incomplete: str) -> list[Offer]:
    from smpcli.catalogue import list_methods

    return _starting(incomplete, list_methods(), "summary")


def tasks(incomplete: str) -> list[Offer]:
    from smpcli.tasks.task import list_tasks

    return _starting(incomplete, [{"name": task.name, "title": task.title} for task in list_tasks()], "title")


def recipes(incomplete: str) -> list[Offer]:
    from smpcli.catalogue import list_recipes

    return _starting(incomplete, list_recipes(), "description")


def sweeps(incomplete: str) -> list[Offer]:
    from smpcli.sweeping.grid import list_sweeps

    return _starting(incomplete, list_sweeps(), "description")


def tables(incomplete: str) -> list[Offer]:
    from smpcli.sweeping.reproduction import list_tables

    return _starting(incomplete, list_tables(), "description")


def engines(incomplete: str) -> list[Offer]:
    from smpcli.sweeping.engines import ENGINES

    entries = [{"name": name, "summary": entry.summary} for name, (entry,) in ENGINES.entries().items()]
    return _starting(incomplete, entries, "summary")


def runs(incomplete: str) -> list[str]:
    """Finished runs in the folder that is being typed, or in results/ as long as no folder is."""
    from smpcli.runs.rundir import RESULT

    folder = incomplete.rpartition("/")[0] if "/" in incomplete else "results"
    found = (f"{folder}/{path.parent.name}" for path in sorted(Path(folder or "/").glob(f"*/{RESULT}")))
    return [run for run in found if run.startswith((incomplete, f"{folder}/{incomplete}"))]


def _starting(incomplete: str, entries: Iterable[Mapping[str, str]], about: str) -> list[Offer]:
    return [(entry["name"], entry[about]) for entry in entries if entry["name"].startswith(incomplete)]
