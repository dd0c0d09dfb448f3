"""Rows of a task, checked: texts, class ids or numbers, and a digest that tells one set of data from another."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smpcli.errors import UserError
from smpcli.tasks import movies
from smpcli.tasks.examples import Examples as Examples
from smpcli.tasks.examples import labelled, read_examples
from smpcli.tasks.folder import data_folder, read_file, read_folder
from smpcli.tasks.squad import Questions, read_questions
from smpcli.tasks.tables import Table, read_table
from smpcli.tasks.task import Task

#: A task's rows: texts with a label each, or questions with their contexts and answers.
Rows = Examples | Questions

DEV_SHARE = 0.1  # of the rows of a file without a dev file


@dataclass(frozen=True)
class DevData:
    """A task's dev sets. `labels`: class names in id order (none in a regression, none for spans).

    `digests`: of each dev set alone. `digest`: of all rows, those to train on too; None where those aren't at hand.
    """

    dev: dict[str, Rows]
    labels: list[str]
    origin: str
    digests: dict[str, str]
    digest: str | None
    overlap: dict[str, int]  # as TaskData has it; empty where there is nothing to train on


@dataclass(frozen=True)
class TaskData:
    """A task's rows. `labels`: class names in id order (none in a regression, none for spans).

    `digest`: sha256 over all texts and labels in order: the same rows give the same one, wherever they came from;
    `dev_digests`: one for each dev set alone. `left_out`: rows that have no label, by what they have in its place.
    `overlap`: how many texts of each dev set are trained on too (of questions: how many are on such a context).
    """

    train: Rows
    dev: dict[str, Rows]
    labels: list[str]
    origin: str
    digest: str
    dev_digests: dict[str, str]
    left_out: dict[str, int]
    overlap: dict[str, int]


def load_data(task: Task, data_dir: Path | None, *, dev_file: Path | None = None) -> TaskData:
    """All rows of a task.

    A file of a person's own is read where it is; other tasks come from `data_dir` (None: $SMP_DATA_DIR), the task's
    sub-folder in it, and only without one from the hub; `movies` from the cache, or from the package index.
    `dev_file` belongs to a file of one's own; without it the rows to evaluate on are a tenth, by a hash of the text.
    Raises `UserError`, with the line where there is one, and for a dev set of nothing but training texts. Nothing
    stands in for data that can't be had.
    """
    return _refuse_copies(_load(task, data_dir, dev_file))


def _load(task: Task, data_dir: Path | None, dev_file: Path | None) -> TaskData:
    found = _local(task, data_dir, dev_file)
    if found is None and task.source.package:
        found = _from_package(task, movies.obtain(data_folder(data_dir)[0]))
    if found is None:
        from smpcli.tasks import hub

        if not task.source.hub:
            wanted = f"{task.source.folder}/{task.source.train_file}"
            raise UserError(
                f"task '{task.name}' has no data here",
                f"name a folder that holds {wanted} with --data-dir or SMP_DATA_DIR",
            )
        train, dev = hub.load(task)
        origin = " ".join(filter(None, ("hub", task.source.hub, task.source.config)))
        found = _task_data(task, train, dev, origin)
    return found


def load_dev(task: Task, data_dir: Path | None, *, dev_file: Path | None = None) -> DevData:
    """The rows to evaluate on, as `load_data` has them; but a folder that holds dev sets alone, or some, will do."""
    folder, given_by = data_folder(data_dir)
    if folder is not None and task.source.folder:
        train, tables, origin = read_folder(task, folder, given_by, dev_only=True)
        if train is None:
            dev = {name: _rows(task, table, {}) for name, table in tables.items()}
            return DevData(dev, list(task.labels), origin, _dev_digests(task, dev), None, {})
    # What a run was once measured on is what it is measured on again, be it a copy of the training rows.
    data = _load(task, data_dir, dev_file)
    return DevData(data.dev, data.labels, data.origin, data.dev_digests, data.digest, data.overlap)


def dry_run_sizes(task: Task, data_dir: Path | None, dev_file: Path | None = None) -> tuple[int | None, int | None]:
    """Rows to train on and to evaluate on (all dev sets together), with nothing downloaded.

    Counted, and checked, where the data are at hand; else as the task's YAML says, which may be None.
    Raises `UserError`.
    """
    return sizes(task, local_data(task, data_dir, dev_file))


def sizes(task: Task, found: TaskData | None) -> tuple[int | None, int | None]:
    """Rows to train on and to evaluate on, as counted, or without data as the task's YAML says."""
    if found is None:
        return task.train_rows, task.dev_rows
    return len(found.train), sum(len(examples) for examples in found.dev.values())


def local_data(task: Task, data_dir: Path | None, dev_file: Path | None = None) -> TaskData | None:
    """All rows of a task as `load_data` has them where no download is needed, else None. Raises `UserError`."""
    found = _local(task, data_dir, dev_file)
    return None if found is None else _refuse_copies(found)


def _refuse_copies(data: TaskData) -> TaskData:
    for split, rows in data.dev.items():
        # The keys of a split are the wider ones: of a question they are those of its context.
        if data.overlap[split] == len(rows) and set(data.train.repeat_keys()).issuperset(rows.repeat_keys()):
            raise UserError(
                f"{data.origin}: each of the {len(rows):,} {split} examples is trained on, too (case, white space, "
                "Unicode form, kinds of dashes and invisible characters aside), and a model is never evaluated on "
                "what it learned from",
                "name other rows to evaluate on",
            )
    return data


def _local(task: Task, data_dir: Path | None, dev_file: Path | None) -> TaskData | None:
    source = task.source
    if source.file:
        return _from_file(task, source.file, dev_file or source.dev_file)
    if dev_file:
        raise UserError(f"dev_file goes with a data file of your own; task '{task.name}' has its own dev set")
    if source.package:
        cached = movies.cached()
        return _from_package(task, cached) if cached else None
    folder, given_by = data_folder(data_dir)
    if folder is None:
        return None
    if not source.folder:
        # The hub is all that such a task has; a data folder set for other tasks isn't a mistake.
        return None
    train, dev, origin = read_folder(task, folder, given_by)
    assert train is not None
    return _task_data(task, train, dev, origin) if dev else _split(task, train, origin)


def _from_file(task: Task, file: Path, dev_file: Path | None) -> TaskData:
    table = read_file(task, file)
    if dev_file is None:
        return _split(task, table, f"file {file.name}")
    if dev_file.resolve() == file.resolve():
        raise UserError(
            f"{dev_file} is the training file too, and a model is never evaluated on what it learned from"
        )
    return _task_data(task, table, {"dev": read_file(task, dev_file)}, f"file {file.name}, dev {dev_file.name}")


def _from_package(task: Task, path: Path) -> TaskData:
    return _split(task, read_table(path), f"package {movies.REQUIREMENT.replace('==', ' ')}")


def _split(task: Task, table: Table, origin: str) -> TaskData:
    """Keep about a tenth of the texts (of questions: of the contexts) for evaluation.

    By a hash of the text, so that a row keeps its side when others are added, and repeats (in other case or spacing
    too) are on one side. Each side has a row, and each class one to train on.
    """
    left_out: dict[str, int] = {}
    everything = _rows(task, table, left_out)
    keys = everything.split_keys()
    dev = _held_out(keys, everything.classes(task.labels))
    sides = [[row for row, key in enumerate(keys) if (key in dev) is side] for side in (False, True)]
    if not all(sides):
        raise UserError(
            f"{table.name} has too few different texts ({len(set(keys))}) to keep some for evaluation",
            "add rows, or name a file for that with --set dev_file=…",
        )
    train, held = (everything.take(rows) for rows in sides)
    return _finish(task, table.name, train, {"dev": held}, origin, left_out)


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


def _rows(task: Task, table: Table, left_out: dict[str, int]) -> Rows:
    """A table's rows, checked; those without a label are left out, and counted into `left_out`."""
    return READERS[task.kind](task, table, left_out)


def _questions(task: Task, table: Table, left_out: dict[str, int]) -> Questions:
    return read_questions(table, task.columns)


def _examples(task: Task, table: Table, left_out: dict[str, int]) -> Examples:
    table, unlabelled = labelled(task, table)
    for label, rows in unlabelled.items():
        left_out[label] = left_out.get(label, 0) + rows
    return read_examples(task, table)


#: How each kind's rows are read from a table.
READERS: dict[str, Callable[[Task, Table, dict[str, int]], Rows]] = {
    "classification": _examples,
    "regression": _examples,
    "span": _questions,
}


def _task_data(task: Task, train: Table, dev: dict[str, Table], origin: str) -> TaskData:
    left_out: dict[str, int] = {}
    tables = {name: _rows(task, table, left_out) for name, table in dev.items()}
    return _finish(task, train.name, _rows(task, train, left_out), tables, origin, left_out)


def _finish(
    task: Task, name: str, train: Rows, dev: dict[str, Rows], origin: str, left_out: dict[str, int]
) -> TaskData:
    train.check(name, task.labels)
    digest = _digest(task.labels, {"train": train, **dev})
    learned = set(train.text_keys())
    overlap = {split: sum(key in learned for key in rows.text_keys()) for split, rows in dev.items()}
    return TaskData(train, dev, list(task.labels), origin, digest, _dev_digests(task, dev), left_out, overlap)


def _dev_digests(task: Task, dev: dict[str, Rows]) -> dict[str, str]:
    return {name: _digest(task.labels, {name: rows}) for name, rows in dev.items()}


def _digest(labels: list[str], splits: dict[str, Rows]) -> str:
    """sha256 over JSON lines: the class names, then each split's name and rows (labels by name)."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(json.dumps(value, ensure_ascii=False).encode() + b"\n")

    add(labels)
    for name, rows in splits.items():
        add(name)
        for row in rows.canonical(labels):
            add(row)
    return digest.hexdigest()
