"""Kinds of task: all parts know the same ones, and one more needs an entry in each table and nothing else."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from smpcli import compare, evaluate, load, prune
from smpcli.encoding.batches import Encoded, LogitParts
from smpcli.kinds import KINDS
from smpcli.kinds.kind import Kind, in_order
from smpcli.tasks import data
from smpcli.tasks.data import Examples
from smpcli.tasks.tables import Table
from smpcli.tasks.task import Task
from smpcli.tasks.traits import TRAITS, Traits


def test_every_part_knows_the_same_kinds() -> None:
    assert list(TRAITS) == list(KINDS) == list(data.READERS) == ["classification", "regression", "span"]


@pytest.mark.parametrize("name", list(TRAITS))
def test_the_traits_name_what_the_libraries_have(name: str) -> None:
    traits = TRAITS[name]
    assert hasattr(transformers, traits.stock)
    assert set(traits.usual) <= set(traits.metrics)
    references: Any = [["a film"], ["a plot"]] if traits.squad else [0, 1]
    predictions: Any = ["a film", "plot"] if traits.squad else [0, 1]
    assert KINDS[name].measure(list(traits.metrics), predictions, references).keys() == set(traits.metrics)


def test_predictions_are_the_highest_logit_or_the_value_in_the_order_of_the_examples() -> None:
    encoded = Encoded({"input_ids": [[1], [2]]}, torch.tensor([0, 1]), {"input_ids": 0})
    parts = [([1], torch.tensor([[0.1, 0.3, -1.0]])), ([0], torch.tensor([[5.0, 4.0, 4.5]]))]
    assert KINDS["classification"].predictions(parts, encoded) == [0, 1]
    assert KINDS["regression"].predictions([([1, 0], torch.tensor([[0.5], [-2.0]]))], encoded) == [-2.0, 0.5]


def test_a_rare_class_is_among_the_examples_that_prototypes_are_made_of() -> None:
    labels = torch.zeros(5000, dtype=torch.long)
    labels[:100] = 1
    # The rare ones come last, so that plain chance would take none of them.
    order = np.arange(5000)[::-1]
    chosen = KINDS["classification"].setup_examples(labels, order).tolist()
    assert chosen == [*range(4999, 2951, -1), *range(99, 35, -1)]
    assert KINDS["regression"].setup_examples(labels.float(), order).tolist() == chosen[:2048]
    assert KINDS["span"].setup_examples(labels, order).tolist() == chosen[:512]


# -- a kind that smp doesn't have: texts with any number of labels each ---------------------------------------


@dataclass(frozen=True)
class Tagged(Examples):
    def check(self, name: str, labels: list[str]) -> None:
        pass

    def classes(self, labels: list[str]) -> Sequence[float]:
        return [0] * len(self)

    def summary(self, labels: list[str]) -> tuple[str, Any]:
        rows: Any = self.labels
        return "labels", {name: sum(int(row[i]) for row in rows) for i, name in enumerate(labels)}

    def counted(self, labels: list[str]) -> str:
        return f"{len(self)} texts"

    def canonical(self, labels: list[str]) -> Iterator[Any]:
        yield from zip(self.texts, self.labels, strict=True)

    def take(self, rows: list[int]) -> Tagged:
        return Tagged([self.texts[row] for row in rows], None, [self.labels[row] for row in rows])


def read_tagged(task: Task, table: Table, left_out: dict[str, int]) -> Tagged:
    tags = [[float(name in row.split()) for name in task.labels] for row in table.values(task.label)]
    return Tagged(list(table.values(task.text)), None, tags)  # type: ignore[arg-type]


class Tags(Kind):
    def loss(self, inputs: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits, labels)

    def distilled(
        self, inputs: dict[str, Tensor], logits: Tensor, teacher: Tensor, divergence: Callable[..., Tensor]
    ) -> Tensor:
        return binary_cross_entropy_with_logits(logits, teacher.sigmoid())

    def uncarried(self, carried: Tensor) -> tuple[Tensor, Tensor]:
        return carried.chunk(2, 1)  # type: ignore[return-value]

    def set_prototypes(self, model: Any, batches: Any, scale: float) -> None:
        pass

    def predictions(self, parts: LogitParts, encoded: Encoded) -> Any:
        return (in_order(parts) > 0).float().tolist()

    def measure(self, metrics: list[str], predictions: Any, references: Sequence[Any]) -> dict[str, float]:
        return {"all_right": sum(a == b for a, b in zip(predictions, references, strict=True)) / len(references)}

    def undefined(self, metrics: Sequence[str], rows: Any) -> None:
        pass

    def answers(self, logits: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"tags": [name for name, value in zip(labels, row, strict=True) if value > 0]} for row in logits.tolist()
        ]


@pytest.fixture
def tagged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file of the new kind, which three entries make known."""
    traits = Traits("tags", ("all_right",), ("all_right",), "tagging", problem_type="multi_label_classification")
    monkeypatch.setitem(TRAITS, "tags", traits)
    monkeypatch.setitem(KINDS, "tags", Tags())
    monkeypatch.setitem(data.READERS, "tags", read_tagged)
    draw = random.Random(3)
    tags = [[name for name in ("good", "film", "dull") if draw.random() < 0.5] for _ in range(80)]
    rows = [(f"the {' '.join(found)} plot {draw.choice('ab')}", " ".join(found)) for found in tags]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    (tmp_path / "tagged.yaml").write_text(
        "title: tags\nkind: tags\ntext: text\nlabel: label\nlabels: [good, film, dull]\nmetrics: [all_right]\n"
        "source: {file: rows.csv}\n"
    )
    return tmp_path / "tagged.yaml"


def test_one_more_kind_is_trained_measured_exported_and_asked(
    pico: Any, tagged: Path, tmp_path: Path, export_here: Any
) -> None:
    how: dict[str, Any] = {"model": str(pico("bert")), "output": tmp_path / "runs"}
    how |= {"head": "classifier", "max_steps": 4}
    teacher = prune(str(tagged), method="dense", **how)
    run = prune(str(tagged), sparsity=0.5, teacher=str(teacher.path), **how)
    assert evaluate(run.path).agrees
    rows = [json.loads(line) for line in (run.path / "predictions.jsonl").read_text().splitlines()]
    right = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
    assert run.result.metrics == {"all_right": right}
    assert len(compare(tmp_path / "runs").rows) == 2
    made = [export_here(run.path, name, output=tmp_path / name).path for name in ("mask", "hf")]
    told = [load(path).predict(["the good plot"]) for path in (run.path, *made)]
    assert told[0] == told[1] == told[2] and told[0][0].keys() == {"tags"}
    config = json.loads((made[1] / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "good", "1": "film", "2": "dull"}
