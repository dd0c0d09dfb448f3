"""A task's rows from a folder of the original files: GLUE's TSV, SQuAD's JSON, laid out as they are published."""

from __future__ import annotations

import os
from pathlib import Path

from smpcli.errors import UserError
from smpcli.files import expanded, is_file, is_folder
from smpcli.tasks.squad import read_squad
from smpcli.tasks.tables import Table, read_table, shown
from smpcli.tasks.task import Task


def data_folder(data_dir: Path | None) -> tuple[Path | None, str]:
    """The data folder, and what named it."""
    if data_dir is not None:
        return expanded(data_dir), "--data-dir"
    named = os.environ.get("SMP_DATA_DIR")
    return (expanded(named), "SMP_DATA_DIR") if named else (None, "")


def read_file(task: Task, path: Path) -> Table:
    """One file of the task's rows, by what its kind is stored in."""
    if task.traits.squad:
        return read_squad(path)
    return read_table(path, header=task.source.header, drop_short=task.source.drop_incomplete)


def read_folder(
    task: Task, folder: Path, given_by: str, dev_only: bool = False
) -> tuple[Table | None, dict[str, Table], str]:
    """Table to train on, tables of the dev sets, and where they are from.

    No dev sets: a part of the first table must be held out, as the folder holds one SQuAD-format file and no more.
    dev_only: where there is nothing to train on, the dev sets that are there will do. Raises `UserError`.
    """
    source = task.source
    place = _place(task, folder, given_by)
    name = place.name if place == folder else source.folder
    present = {name: file for name, file in source.dev_files.items() if (place / file).is_file()}
    alone = sorted(place.glob("*.json")) if task.traits.squad else []
    trains = (place / source.train_file).is_file()
    if not (trains or present) and len(alone) == 1:
        table = read_file(task, alone[0])
        return _named(table, f"{name}/{table.name}"), {}, f"folder {name}: {table.name}, a tenth kept for evaluation"
    if not trains and present:
        if not dev_only:
            raise UserError(
                f"{place} has no {source.train_file} but {shown(present.values())}: from there a run can be measured "
                "(`smp eval`), not trained",
                f"give a folder that holds {source.folder}/{source.train_file}"
                f"{', or unset --data-dir and SMP_DATA_DIR to use the hub' if source.hub else ''}",
            )
    elif missing := [f for f in (source.train_file, *source.dev_files.values()) if not (place / f).is_file()]:
        raise UserError(f"{place} has no {missing[0]}; it holds {_listing(place)}", _wanted(task, given_by))
    dev = {split: _read(task, place, name, file) for split, file in present.items()}
    return (_read(task, place, name, source.train_file) if trains else None), dev, f"folder {name}"


def _place(task: Task, folder: Path, given_by: str) -> Path:
    """The folder of the task's files: the sub-folder that the task names, or for SQuAD the folder itself."""
    source, wanted = task.source, _wanted(task, given_by)
    assert source.folder is not None
    if not is_folder(folder):
        raise UserError(f"{folder} is a file" if is_file(folder) else f"there is no folder {folder}", wanted)
    if (folder / source.folder).is_dir():
        return folder / source.folder
    if task.traits.squad and any(folder.glob("*.json")):
        return folder
    above = f" (the folder above, {folder.parent}?)" if folder.name == source.folder else ""
    raise UserError(f"{folder} has no sub-folder {source.folder}; it holds {_listing(folder)}", wanted + above)


def _wanted(task: Task, given_by: str) -> str:
    return f"{given_by} must name a folder that holds {task.source.folder}/{task.source.train_file}"


def _read(task: Task, place: Path, name: str | None, file: str) -> Table:
    return _named(read_file(task, place / file).renamed(task.source.rename), f"{name}/{file}")


def _named(table: Table, name: str) -> Table:
    return Table(name, table.columns, table.numbers, table.unit)


def _listing(folder: Path) -> str:
    return shown(sorted(path.name for path in folder.iterdir()), 8) or "nothing"
