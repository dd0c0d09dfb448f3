"""Tables of the paper: which runs make them, and what their figures are, from runs made by hand."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from handmade import make_run

from smpcli.errors import UserError
from smpcli.settings import recipe_names, resolve
from smpcli.sweeping.reproduction import Figure, Reproduction, list_tables, plan_table
from smpcli.sweeping.sweep import SweepRun
from smpcli.training.run import run_id

GLUE = "mnli qnli sst2 qqp mrpc cola stsb rte".split()


def test_every_recipe_of_a_row_with_a_figure_is_a_row_of_a_table() -> None:
    found = {entry["name"]: entry["rows"] for entry in list_tables()}
    rows = {row for its in found.values() for row in its}
    recipes = {name.removeprefix("paper/") for name in recipe_names() if re.match(r"paper/.*-\d+$", name)}
    # What GLUE's rows share, and settings of the release without a figure.
    assert rows == recipes - {"glue-80", "mnli-50", "squad-50"}
    assert all(found[row] == [row] for row in rows)
    assert found["kd"] == [f"{task}-kd-{left}" for task in ("mnli", "qqp", "squad") for left in (50, 10, 3)]
    assert found["glue-80"] == [f"{task}-80" for task in GLUE]
    assert all(entry["description"] for entry in list_tables())


def test_one_teacher_serves_all_rows_and_seeds(tmp_path: Path) -> None:
    found = plan_table("mnli-kd", [1, 2], tmp_path, {"max_steps": None})
    teacher, *others = found.jobs
    assert (teacher.settings.pruner.name, teacher.settings.run.model) == ("dense", "bert-base-uncased")
    assert (teacher.settings.run.seed, teacher.teacher, teacher.settings.run.teacher) == (0, None, None)
    # Seed by seed, so that a whole table is there early.
    expected = [(seed, sparsity) for seed in (1, 2) for sparsity in (0.5, 0.9, 0.97)]
    assert [(job.settings.run.seed, job.settings.run.sparsity) for job in others] == expected
    assert {job.teacher for job in others} == {teacher.id}
    assert {job.settings.run.teacher for job in others} == {str(tmp_path / teacher.id)}
    assert found.changed == {}


def test_a_row_is_the_run_that_its_recipe_makes(tmp_path: Path) -> None:
    (job,) = plan_table("rte-80", [4], tmp_path, {}).jobs
    assert job.id == run_id(resolve("paper/rte-80", {"seed": 4}))
    assert job.teacher is None


def test_what_is_changed_is_changed_in_every_run_and_said(tmp_path: Path, pico: Any) -> None:
    model = str(pico("bert-mlm"))
    given = {"model": model, "max_steps": 6, "data_dir": str(tmp_path), "device": "cpu"}
    found = plan_table("squad-kd-3", [0], tmp_path, given)
    assert len(found.jobs) == 2
    for job in found.jobs:
        run = job.settings.run
        assert (run.model, run.max_steps, run.epochs, run.data_dir) == (model, 6, None, str(tmp_path))
    # Where the data lie and what computes make no other table.
    assert found.changed == {"model": model, "max_steps": 6}
    assert any("no reproduction" in note and "max_steps 6" in note for note in found.notes())
    # The figures stay those of the row itself.
    assert [figure.published for figure in found.figures() if figure.row == "squad-kd-3"] == [0.841, 0.75]


def finished(found: Reproduction, folder: Path, metrics: dict[str, dict[int, dict[str, float]]]) -> list[Figure]:
    """The table when its runs have ended as `metrics` (row -> seed -> metrics) says; those not named have failed."""
    for row in found.rows:
        for job in row.jobs:
            run, value = job.settings.run, metrics.get(row.name, {}).get(job.settings.run.seed)
            made = SweepRun(job, folder / job.id, state="failed" if value is None else "finished")
            if value is not None:
                about = {"task": run.task, "method": row.settings.pruner.name, "sparsity": run.sparsity}
                named = {f"run__{key}": one for key, one in (about | {"seed": run.seed}).items()}
                make_run(made.path, {}, metrics=value, metric=next(iter(value)), **named)
            found.runs.append(made)
    return found.figures()


def test_ours_stand_beside_the_paper_s_with_the_difference(tmp_path: Path) -> None:
    seeds = {seed: {"accuracy_matched": m, "accuracy_mismatched": m + 0.01} for seed, m in ((0, 0.83), (2, 0.85))}
    metrics = {"mnli teacher": {0: {"accuracy_matched": 0.84, "accuracy_mismatched": 0.85}}, "mnli-kd-10": seeds}
    found = finished(plan_table("mnli-kd-10", [0, 1, 2], tmp_path, {}), tmp_path, metrics)
    table = {(figure.row, figure.metric): figure for figure in found}
    assert len(table) == len(found) == 4
    matched = table["mnli-kd-10", "accuracy_matched"]
    # The paper has 83.7 / 83.6, and 84.5 / 84.9 for BERT; seed 1 has failed.
    assert (matched.published, matched.values) == (0.837, {0: 0.83, 2: 0.85})
    assert matched.mean == pytest.approx(0.84) and matched.std == pytest.approx(0.02 / 2**0.5)
    assert matched.difference == pytest.approx(0.003)
    assert table["mnli-kd-10", "accuracy_mismatched"].difference == pytest.approx(0.85 - 0.836)
    teacher = table["mnli teacher", "accuracy_mismatched"]
    assert (teacher.mean, teacher.std, teacher.published) == (0.85, None, 0.849)
    assert matched.to_json() == {
        "row": "mnli-kd-10",
        "task": "mnli",
        "metric": "accuracy_matched",
        "published": 0.837,
        "seeds": [0, 2],
        "values": [0.83, 0.85],
        "mean": matched.mean,
        "std": matched.std,
        "difference": matched.difference,
    }


def test_of_the_paper_s_variants_the_row_s_own_counts(tmp_path: Path) -> None:
    """At 3 % on MNLI it has SMP-S (80.9), SMP-L (80.6), and that without penalty (69.2)."""
    (figure,) = finished(plan_table("mnli-3", [0], tmp_path, {}), tmp_path, {})
    assert (figure.published, figure.values, figure.mean, figure.difference) == (0.809, {}, None, None)


@pytest.mark.parametrize(
    ("table", "prefix", "published"), [("glue-80", "", 0.839), ("roberta-glue-80", "roberta-", 0.869)]
)
def test_the_mean_over_tasks_is_that_of_the_seeds_that_all_have(
    table: str, prefix: str, published: float, tmp_path: Path
) -> None:
    metric = {"mnli": "accuracy_matched", "cola": "matthews", "stsb": "pearson"}
    scores = {task: {seed: 0.6 + 0.01 * place + 0.1 * seed for seed in (0, 1, 2)} for place, task in enumerate(GLUE)}
    del scores["rte"][1]
    metrics = {
        f"{prefix}{task}-80": {seed: {metric.get(task, "accuracy"): value} for seed, value in seeds.items()}
        for task, seeds in scores.items()
    }
    found = finished(plan_table(table, [0, 1, 2], tmp_path, {}), tmp_path, metrics)
    assert [figure.row for figure in found] == [*metrics, "mean"]
    mean = found[-1]
    by_hand = {seed: sum(scores[task][seed] for task in GLUE) / 8 for seed in (0, 2)}
    assert mean.values == pytest.approx(by_hand) and mean.published == published
    assert mean.difference == pytest.approx(statistics.mean(by_hand.values()) - published)
    # The paper's table names no task of RoBERTa's.
    assert (found[0].published, found[0].metric) == (None if prefix else 0.85, "accuracy_matched")


def test_without_a_run_of_some_task_there_is_no_mean(tmp_path: Path) -> None:
    mean = finished(plan_table("glue-80", [0], tmp_path, {}), tmp_path, {"rte-80": {0: {"accuracy": 0.7}}})[-1]
    assert (mean.row, mean.mean, mean.difference, mean.published) == ("mean", None, None, 0.839)


def test_an_unknown_table_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'mnli-kd-10'\? \(`smp reproduce` lists them\)"):
        plan_table("mnli-kd-1", [0], tmp_path, {})
