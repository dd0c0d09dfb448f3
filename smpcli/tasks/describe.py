"""What was made of a task's data, for people and for result.json: columns, kind, labels and how many, odd rows."""

from __future__ import annotations

from typing import Any

from smpcli.errors import visible
from smpcli.tasks.data import Rows, TaskData
from smpcli.tasks.task import Task


def describe(task: Task, data: TaskData) -> dict[str, Any]:
    """As JSON takes it: columns, kind, label counts (of a regression: lowest and highest), rows left out, overlap."""
    key, train = data.train.summary(task.labels) or (None, None)
    dev = {split: found[1] for split, rows in data.dev.items() if (found := rows.summary(task.labels))}
    return {
        "columns": {"text": task.text, "pair": task.pair, "label": task.label},
        "kind": task.kind,
        **({key: {"train": train, "dev": dev}} if key else {}),
        "left_out": data.left_out,
        "overlap": data.overlap,
    }


def lines(task: Task, data: TaskData) -> list[str]:
    """What was taken for what, in one line for training and one for the dev sets; then what is odd about the rows."""
    file = task.source.file
    columns = " + ".join(f"'{visible(column)}'" for column in (task.text, task.pair) if column)
    what = f"{len(task.labels)} classes" if task.labels else task.kind
    sets = "; ".join(f"{split}: {rows.counted(task.labels)}" for split, rows in data.dev.items())
    return [
        f"{visible(file.name if file else task.name)}: text {columns} -> label '{visible(task.label)}', {what}: "
        f"{data.train.counted(task.labels)}",
        sets,
        *_left_out_lines(task, data),
        *overlap_lines(data.dev, data.overlap),
    ]


def _left_out_lines(task: Task, data: TaskData) -> list[str]:
    """A line for each label that means no label."""
    total = len(data.train) + sum(map(len, data.dev.values())) + sum(data.left_out.values())
    way = "all labels" if task.labels else f"kind: {task.kind}"
    return [
        f"left out: {rows:,} of {total:,} rows, as their label '{visible(label)}' means no label; if it is one, "
        f"write a task file with {way} (docs/tasks.md)"
        for label, rows in data.left_out.items()
    ]


def overlap_lines(dev: dict[str, Rows], overlap: dict[str, int]) -> list[str]:
    """A line for each dev set that holds texts to train on."""
    return [
        f"{overlap[split]:,} of {len(rows):,} {split} {rows.overlapping} trained on, too"
        for split, rows in dev.items()
        if overlap.get(split)
    ]
