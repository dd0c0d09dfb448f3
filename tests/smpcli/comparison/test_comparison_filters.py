"""What a comparison shows: filters, order, another metric, published figures, and what tells lines apart."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from handmade import MakeRun
from rich.console import Console

from smpcli.comparison.compare import compare
from smpcli.comparison.published import published
from smpcli.errors import UserError


@pytest.fixture
def study(tmp_path: Path, make_run: MakeRun) -> Path:
    """Two tasks; smp (two inits, two seeds each) and movement at two sparsities; dense of one task."""
    for seed in (0, 1):
        make_run(tmp_path / f"dense{seed}", run__method="dense", run__seed=seed, metrics__accuracy=0.88 + seed / 50)
        for sparsity in (0.5, 0.9):
            for init, plus in (("zero", 0.0), ("activation", 0.02)):
                make_run(
                    tmp_path / f"smp{seed}{sparsity}{init}", run__seed=seed, run__sparsity=sparsity,
                    settings={"init": init, "lr": 0.02}, metrics__accuracy=0.8 + plus + seed / 100,
                    metrics__f1=0.7 - plus,
                )  # fmt: skip
            make_run(
                tmp_path / f"mv{seed}{sparsity}", run__method="movement", run__seed=seed, run__sparsity=sparsity,
                settings={"lr": sparsity}, metrics__accuracy=0.75, run__seconds=1000.0,
            )  # fmt: skip
    make_run(tmp_path / "rte", run__task="rte")
    return tmp_path


def shown(folder: Path, **options: Any) -> list[tuple[str, str, float, str, int]]:
    return [(row.task, row.method, row.sparsity, row.settings, row.n) for row in compare(folder, **options).rows]


def test_tasks_and_methods(study: Path) -> None:
    assert {row[0] for row in shown(study, tasks=["rte"])} == {"rte"}
    assert len(shown(study, tasks=["rte", "sst2"])) == len(shown(study)) == 8
    assert {row[1] for row in shown(study, methods=["movement", "dense"])} == {"movement", "dense"}
    assert shown(study, tasks=["sst2"], methods=["movement"]) == [
        ("sst2", "movement", 0.5, "", 2),
        ("sst2", "movement", 0.9, "", 2),
    ]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (["init=zero"], {("smp", 0.5, 2), ("smp", 0.9, 2)}),
        (["lr=2e-2", "sparsity=0.90"], {("smp", 0.9, 2)}),  # both of them, as numbers
        (["seed=1", "method=movement"], {("movement", 0.5, 1), ("movement", 0.9, 1)}),
        (["run.seconds=1000", "sparsity=0.5", "sparsity=0.9"], {("movement", 0.5, 2), ("movement", 0.9, 2)}),
        (["environment.threads=2", "init = zero", "sparsity=0.5"], {("smp", 0.5, 2)}),
        (["init=none"], set()),
    ],
)
def test_where_asks_settings_and_results(study: Path, where: list[str], rows: set[tuple[str, float, int]]) -> None:
    assert {(row.method, row.sparsity, row.n) for row in compare(study, where=where).rows} == rows


def test_a_truth_value_and_nothing_can_be_asked_for(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", settings={"factored": True, "epochs": None})
    make_run(tmp_path / "b", settings={"factored": False, "epochs": 2})
    for text, settings in (("factored=True", "true"), ("factored=false", "false"), ("epochs=null", "true")):
        assert [row.n for row in compare(tmp_path, where=[text]).rows] == [1]
        (row,) = compare(tmp_path, where=[text]).rows
        assert (Path(row.runs[0]).name == "a") == (settings == "true")


def test_differences_are_to_dense_runs_that_are_not_shown(study: Path) -> None:
    (row,) = compare(study, where=["init=zero", "seed=1", "sparsity=0.9"]).rows
    assert row.difference == pytest.approx(0.81 - 0.89)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["sst"]}, "unknown task 'sst'; did you mean 'sst2'"),
        ({"methods": ["smpp"]}, "unknown method 'smpp'; did you mean 'smp'"),
        ({"where": ["int=zero"]}, "unknown setting or result 'int'; did you mean 'init'"),
        ({"where": ["init"]}, "--where takes key=value"),
        ({"where": ["=x"]}, "--where takes key=value"),
        ({"sort": "-men"}, "unknown column 'men'; did you mean 'mean'"),
        ({"metric": "pearson"}, "no run here has the metric 'pearson'"),
    ],
)
def test_a_name_that_nothing_has_is_refused(study: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        compare(study, **options)
    assert message in str(error.value)
    assert len(str(error.value)) <= 300 and "\n" not in str(error.value)


def test_sort_is_within_each_task_and_blanks_come_last(study: Path, make_run: MakeRun) -> None:
    rows = compare(study, sort="-mean").rows
    assert [row.task for row in rows] == sorted(row.task for row in rows)
    means = [row.mean for row in rows if row.task == "sst2"]
    assert means == sorted(means, reverse=True)
    assert [row.mean for row in compare(study, tasks=["sst2"], sort="mean").rows] == sorted(means)
    make_run(study / "lone", run__sparsity=0.97)  # one seed has no deviation
    for sort in ("std", "-std"):
        stds = [row.std for row in compare(study, tasks=["sst2"], sort=sort).rows]
        known = [std for std in stds if std is not None]
        assert stds == [*sorted(known, reverse=sort == "-std"), None]


def test_another_metric(study: Path, make_run: MakeRun) -> None:
    make_run(study / "only", run__task="rte", run__seed=9, metrics={"accuracy": 0.5})
    found = compare(study, metric="f1", methods=["smp"])
    best = [(row.settings, row.mean) for row in found.rows if row.best]
    assert best == [("init=zero", 0.7)] * 2
    assert {row.metric for row in found.rows} == {"f1"}
    (problem,) = found.problems
    assert problem[0].name == "only" and "without a metric 'f1'" in problem[1]


def test_best_is_of_what_is_shown(study: Path) -> None:
    assert {(row.method, row.settings) for row in compare(study).rows if row.best} == {("smp", "init=activation")}
    assert not any(row.best for row in compare(study, methods=["movement"]).rows)


def test_a_variant_is_a_line_over_sparsities(study: Path, make_run: MakeRun) -> None:
    """movement has another rate at each sparsity, and is one line; smp has two at each, and is two lines."""
    make_run(study / "more", run__sparsity=0.97, settings={"init": "zero", "lr": 0.02})
    rows = compare(study, tasks=["sst2"]).rows
    assert {row.variant for row in rows if row.method == "movement"} == {""}
    assert {(row.sparsity, row.variant) for row in rows if row.variant == "init=zero"} == {
        (0.5, "init=zero"), (0.9, "init=zero"), (0.97, "init=zero"),
    }  # fmt: skip
    assert next(row.settings for row in rows if row.sparsity == 0.97) == ""


def test_published_figures_are_of_the_shown_tasks_and_marked(study: Path, tmp_path: Path) -> None:
    assert compare(study).published == []
    found = compare(study, tasks=["sst2"], with_published=True)
    assert found.published and {row.task for row in found.published} == {"sst2"}
    # SMP paper, GLUE at 80 % of the weights.
    (row,) = [row for row in found.published if row.method == "smp" and row.sparsity == 0.2 and not row.kd]
    assert row.value == pytest.approx(0.929) and row.model.startswith("bert-base") and "2210.06210" in row.source
    frame = found.to_frame()
    assert (frame["published"] != "").sum() == len(found.published)
    assert frame[frame["published"] != ""]["n"].isna().all()
    assert frame[frame["published"] == ""]["n"].tolist() == [row.n for row in found.rows]
    assert found.to_json()["published"][0]["source"]
    assert len(found.rows) == len(compare(study, tasks=["sst2"]).rows)


def test_a_model_that_is_not_pruned_has_no_sparsity_in_any_form(study: Path) -> None:
    found = compare(study, tasks=["sst2"], methods=["movement"], with_published=True)
    # What is chosen among methods leaves what every method is measured by.
    assert {row.method for row in found.published} == {"model"}
    frame = found.to_frame().set_index("settings")
    about: Any = frame.loc["XtremeDistil-l6-h256, small model"]
    assert about[["sparsity", "remaining"]].isna().all() and about["mean"] == 0.912
    assert about["method"] == "model" and "2106.04563" in about["published"]
    line = next(line for line in found.csv_text().splitlines() if "XtremeDistil-l6-h256" in line)
    assert line.startswith("sst2,microsoft/xtremedistil-l6-h256-uncased,,model,,,accuracy,0.912,")
    assert {row["sparsity"] for row in found.to_json()["published"]} == {None}
    Console(width=120, file=(printed := io.StringIO())).print(found)
    (shown,) = [line for line in printed.getvalue().splitlines() if "l6-h256" in line]
    assert shown.split() == "† XtremeDistil-l6-h256, small model 91.2".split()


def test_published_figures_of_large_tasks() -> None:
    """SMP paper, table 1: SMP-S with KD at 10 %."""
    for task, metric, value in (("mnli", "accuracy", 0.837), ("qqp", "accuracy", 0.91), ("squad", "f1", 0.872)):
        found = [
            row.value
            for row in published(task)
            if (row.name, row.sparsity, row.kd) == ("SMP-S", 0.9, True) and row.model.startswith("bert-base")
            and row.metric.startswith(metric)
        ]  # fmt: skip
        assert found[0] == pytest.approx(value)


def test_values_of_seeds_and_interval_are_in_every_form(study: Path) -> None:
    found = compare(study, where=["init=zero", "sparsity=0.9"])
    (row,) = found.rows
    assert row.values == (0.8, 0.81) and row.seeds == (0, 1)
    (plain,) = found.to_json()["rows"]
    assert plain["values"] == [0.8, 0.81]
    assert found.to_frame()["values"].tolist() == ["0.8 0.81"]
    assert {"difference_low", "difference_high", "best", "variant", "values"} <= plain.keys()
