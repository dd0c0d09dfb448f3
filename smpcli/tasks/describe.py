"""What was made of a task's data, for people and for result.json: columns, kind, labels and how many, odd rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from smpcli.errors import visible
from smpcli.tasks.data import Examples, Rows, TaskData
from smpcli.tasks.task import Task

TOP = 6  # labels that are shown with their counts


def describe(task: Task, data: TaskData) -> dict[str, Any]:
    """As JSON takes it: columns, kind, label counts (of a regression: lowest and highest), rows left out, overlap."""
    dev = {split: _labels(task, rows) for split, rows in data.dev.items()}
    sides = {"train": _labels(task, data.train), "dev": dev}
    key = {"classification": "labels", "regression": "range"}.get(task.kind)
    return {
        "columns": {"text": task.text, "pair": task.pair, "label": task.label},
        "kind": task.kind,
        **({key: sides} if key else {}),
        "left_out": data.left_out,
        "overlap": data.overlap,
    }


def _labels(task: Task, rows: Rows) -> Any:
    if not isinstance(rows, Examples):
        return None
    if task.kind == "regression":
        return min(rows.labels), max(rows.labels)
    counts = Counter(rows.labels)
    return {name: counts[i] for i, name in enumerate(task.labels)}


def lines(task: Task, data: TaskData) -> list[str]:
    """What was taken for what, in one line for training and one for the dev sets; then what is odd about the rows."""
    file = task.source.file
    columns = " + ".join(f"'{visible(column)}'" for column in (task.text, task.pair) if column)
    what = f"{len(task.labels)} classes" if task.labels else task.kind
    sets = "; ".join(f"{split}: {_counts(task, rows)}" for split, rows in data.dev.items())
    return [
        f"{visible(file.name if file else task.name)}: text {columns} -> label '{visible(task.label)}', {what}: "
        f"{_counts(task, data.train)}",
        sets,
        *_left_out_lines(task, data),
        *overlap_lines(data.dev, data.overlap),
    ]


def _counts(task: Task, rows: Rows) -> str:
    if not isinstance(rows, Examples):
        return f"{len(rows):,} questions"
    if task.kind == "regression":
        return f"{len(rows):,} numbers from {min(rows.labels):g} to {max(rows.labels):g}"
    counts = Counter({task.labels[int(i)]: n for i, n in sorted(Counter(rows.labels).items())})
    top = [f"{visible(name, 40)} ({n:,})" for name, n in counts.most_common(TOP)]
    rest = [n for _, n in counts.most_common()[TOP:]]
    return ", ".join([*top, f"{len(rest)} others ({sum(rest):,})"] if rest else top)


def _left_out_lines(task: Task, data: TaskData) -> list[str]:
    """A line for each label that stands for none."""
    total = len(data.train) + sum(map(len, data.dev.values())) + sum(data.left_out.values())
    way = "kind: regression" if task.kind == "regression" else "all labels"
    return [
        f"left out: {rows:,} of {total:,} rows, as their label '{visible(label)}' stands for none; if it is one, "
        f"write a task file with {way} (docs/tasks.md)"
        for label, rows in data.left_out.items()
    ]


def overlap_lines(dev: dict[str, Rows], overlap: dict[str, int]) -> list[str]:
    """A line for each dev set that holds texts to train on."""
    return [
        f"{overlap[split]:,} of {len(rows):,} {split} "
        f"{'texts are' if isinstance(rows, Examples) else 'questions are on contexts that are'} trained on, too"
        for split, rows in dev.items()
        if overlap.get(split)
    ]
