"""Rows from the hub, through `datasets`: parquet only, no loading scripts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from smpcli.errors import UserError, one_line
from smpcli.network import prefer_cache_without_hub
from smpcli.tasks.tables import Table, shown
from smpcli.tasks.task import Task


def load(task: Task) -> tuple[Table, dict[str, Table]]:
    """The train table and the dev tables of a task on the hub; class ids become the names the hub gives them.

    Raises `UserError` when the hub or the data set can't be had: it names the other ways.
    """
    prefer_cache_without_hub()
    import datasets

    source = task.source
    where = " ".join(filter(None, (source.hub, source.config)))
    try:
        with _quiet():
            found = datasets.load_dataset(source.hub, source.config)
    except Exception as error:  # whatever the network, the cache or the hub's client comes up with
        raise UserError(f"can't load {where} from the hub ({one_line(str(error), 120)})", ways_out(task)) from error

    def table(split: str) -> Table:
        if split not in found:
            raise UserError(f"{where} on the hub has no split '{split}'", f"it has {shown(found)}")
        return _table(task, f"{where}, {split}", found[split])

    return table(source.train_split), {name: table(split) for name, split in source.dev_splits.items()}


def ways_out(task: Task) -> str:
    """What to do without the hub."""
    folder = (
        f"without it, give a folder that holds {task.source.folder}/{task.source.train_file} with --data-dir "
        "or SMP_DATA_DIR, or "
        if task.source.folder
        else "without it, "
    )
    return folder + "take `--task movies`, which needs the package index alone"


def _table(task: Task, name: str, split: Any) -> Table:
    import datasets

    wanted = [*task.columns, "id"] if task.traits.squad else task.columns
    if missing := [column for column in wanted if column not in split.column_names]:
        raise UserError(f"{name} has no column '{missing[0]}'", f"its columns: {shown(split.column_names)}")
    columns: dict[str, Any] = split.select_columns(wanted)[:]
    feature = split.features[task.label]
    if isinstance(feature, datasets.ClassLabel):
        # By name: an id means nothing where the two lists are in another order. -1 is the hub's "unlabelled".
        names = dict(enumerate(feature.names))
        columns[task.label] = [names.get(value, value) for value in columns[task.label]]
    elif getattr(feature, "dtype", None) == "float32":
        # 3.8 comes as 3.799999952316284: take back the number that was written, the one in the original files
        columns[task.label] = [value if value is None else float(f"{value:.7g}") for value in columns[task.label]]
    return Table(name, columns, range(len(split)), "row")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client's retries to itself: the one line that matters is ours."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
