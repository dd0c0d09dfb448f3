from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from handmade import MASK, MakeRun, plain_result, short
from rich.console import Console
from test_bootstrap import write_predictions

from smpcli.comparison.compare import Comparison, Row, compare
from smpcli.comparison.page import contents
from smpcli.comparison.terminal import sections
from smpcli.errors import UserError


def only(comparison: Comparison) -> Row:
    assert comparison.problems == []
    (row,) = comparison.rows
    return row


def by_method(comparison: Comparison) -> dict[str, Row]:
    assert comparison.problems == []
    return {row.method: row for row in comparison.rows}


def test_seeds_make_one_row_with_mean_and_sample_deviation(tmp_path: Path, make_run: MakeRun) -> None:
    for seed, accuracy, seconds in ((3, 0.80, 100.0), (1, 0.84, 200.0), (2, 0.85, 600.0)):
        make_run(tmp_path / f"r{seed}", run__seed=seed, metrics__accuracy=accuracy, run__seconds=seconds)
    row = only(compare(tmp_path))
    assert row.n == 3
    assert row.seeds == (1, 2, 3)
    assert row.mean == pytest.approx(0.83, abs=1e-15)
    # By hand: deviations -0.03, 0.01, 0.02; their squares sum to 0.0014; two degrees of freedom.
    assert row.std == pytest.approx(math.sqrt(0.0007), rel=1e-12)
    assert row.seconds == pytest.approx(300.0)
    assert row.runs == tuple(str(tmp_path / name) for name in ("r1", "r2", "r3"))


def test_a_row_says_what_the_run_says(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "r", weights__trained=7, task_bytes=123, training__steps=11, training__batch_size=8)
    row = only(compare(tmp_path))
    assert (row.task, row.model, row.head, row.method, row.metric) == (
        "sst2",
        "minilm",
        "prototype",
        "smp",
        "accuracy",
    )
    assert (row.sparsity, row.remaining, row.mean, row.std, row.n) == (0.9, 0.1, 0.86, None, 1)
    assert (row.difference, row.trained, row.task_bytes, row.steps, row.batch_size) == (None, 7, 123, 11, 8)
    assert row.settings == ""


@pytest.mark.parametrize(
    "change",
    [
        {"run__task": "movies"},
        {"data__digest": "e" * 64},
        {"model__name": "bert"},
        {"model__digest": "n" * 64},
        {"model__head": "words"},
        {"run__method": "movement"},
        {"run__sparsity": 0.95},
        {"metric": "f1"},
        {"settings": {"training": {"learning_rate": 0.01}}},
        {"settings": {"extra": None}},
    ],
)
def test_runs_that_differ_in_anything_but_the_seed_never_share_a_row(
    tmp_path: Path, make_run: MakeRun, change: dict[str, Any]
) -> None:
    make_run(tmp_path / "a", run__seed=0, settings={"training": {"learning_rate": 0.02}})
    make_run(tmp_path / "b", **{"run__seed": 1, "settings": {"training": {"learning_rate": 0.02}}, **change})
    assert [row.n for row in compare(tmp_path).rows] == [1, 1]


def test_places_and_names_are_no_settings(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", run__seed=0, settings={"output": "x", "data_dir": "here", "device": "cpu"})
    make_run(tmp_path / "b", run__seed=1, settings={"output": "y", "data_dir": None, "overwrite": True})
    assert only(compare(tmp_path)).n == 2


def test_how_a_run_was_computed_is_no_setting(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", run__seed=0, settings={"data_workers": 0, "gradient_checkpointing": False})
    make_run(tmp_path / "b", run__seed=1, settings={"data_workers": 2, "gradient_checkpointing": True})
    assert only(compare(tmp_path)).n == 2


def test_the_order_of_keys_in_settings_makes_no_difference(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", run__seed=0)
    make_run(tmp_path / "b", run__seed=1)
    (tmp_path / "a/settings.yaml").write_text("seed: 0\nt: {x: 1, y: [a, 2]}\n")
    (tmp_path / "b/settings.yaml").write_text("t:\n  y: [a, 2]\n  x: 1\nseed: 1\n")
    assert only(compare(tmp_path)).n == 2


def test_settings_are_shown_where_rows_would_look_alike_only(tmp_path: Path, make_run: MakeRun) -> None:
    settings = {"method_settings": {"init": "zero", "lr": 0.02}, "training": {"epochs": 3, "lr": 0.1}}
    other = {"method_settings": {"init": "activation", "lr": 0.01}, "training": {"epochs": 3, "lr": 0.2}}
    make_run(tmp_path / "a", settings=settings, metrics__accuracy=0.9)
    make_run(tmp_path / "b", settings=other, metrics__accuracy=0.8)
    make_run(tmp_path / "c", settings=other, metrics__accuracy=0.7, run__sparsity=0.95)
    comparison = compare(tmp_path)
    assert comparison.problems == []
    assert [row.settings for row in comparison.rows] == [
        "init=zero, method_settings.lr=0.02, training.lr=0.1",
        "init=activation, method_settings.lr=0.01, training.lr=0.2",
        "",
    ]


def test_difference_is_to_dense_of_the_same_task_data_and_model(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "dense0", run__method="dense", run__seed=0, metrics__accuracy=0.88)
    make_run(tmp_path / "dense1", run__method="dense", run__seed=1, metrics__accuracy=0.90)
    make_run(tmp_path / "other", run__method="dense", metrics__accuracy=0.99, data__digest="e" * 64)
    make_run(tmp_path / "smp", metrics__accuracy=0.86)
    make_run(tmp_path / "lone", metrics__accuracy=0.5, run__task="rte")
    found = {(row.task, row.method, row.data_digest[0]): row.difference for row in compare(tmp_path).rows}
    assert found == {
        ("sst2", "smp", "d"): pytest.approx(-0.03),
        ("sst2", "dense", "d"): 0.0,
        ("sst2", "dense", "e"): 0.0,
        ("rte", "smp", "d"): None,
    }


def test_of_several_dense_rows_the_one_of_the_same_length_is_taken(tmp_path: Path, make_run: MakeRun) -> None:
    long: dict[str, Any] = {"training__steps": 1000, "training__batch_size": 128, "settings": {"epochs": 4}}
    # Half the batch and twice the steps is the same length: both have seen 32,000 examples.
    short: dict[str, Any] = {"training__steps": 2000, "training__batch_size": 16, "settings": {"epochs": 1}}
    make_run(tmp_path / "a", run__method="dense", metrics__accuracy=0.92, **long)
    make_run(tmp_path / "b", run__method="dense", metrics__accuracy=0.88, **short)
    make_run(tmp_path / "c", run__method="smp", metrics__accuracy=0.87, training__steps=1000)
    make_run(tmp_path / "d", run__method="movement", metrics__accuracy=0.80, **long)
    rows = {row.method: row for row in compare(tmp_path).rows}
    assert rows["smp"].difference == pytest.approx(-0.01)
    assert rows["movement"].difference == pytest.approx(-0.12)


def test_of_dense_rows_of_one_length_the_best_is_the_mark(tmp_path: Path, make_run: MakeRun) -> None:
    for name, rate, accuracy in (("a", 1e-5, 0.70), ("b", 3e-5, 0.89), ("c", 1e-2, 0.51)):
        make_run(tmp_path / name, run__method="dense", metrics__accuracy=accuracy, settings={"lr": rate})
    make_run(tmp_path / "smp", metrics__accuracy=0.87)
    (row,) = [row for row in compare(tmp_path).rows if row.method == "smp"]
    assert row.difference == pytest.approx(-0.02)


def test_a_row_without_steps_is_measured_by_the_best_dense_row(tmp_path: Path, make_run: MakeRun) -> None:
    """It has no length of its own, so none is nearer than another."""
    for name, steps, accuracy in (("a", 100, 0.70), ("b", 1000, 0.89), ("c", 2000, 0.88)):
        more: dict[str, Any] = {"training__steps": steps, "settings": {"max_steps": steps}}
        make_run(tmp_path / name, run__method="dense", metrics__accuracy=accuracy, **more)
    make_run(tmp_path / "d", run__method="wanda", metrics__accuracy=0.80, training__steps=0)
    (row,) = [row for row in compare(tmp_path).rows if row.method == "wanda"]
    assert row.difference == pytest.approx(-0.09)


def test_order_is_dense_then_sparsity_then_the_best_first(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", run__method="smp", run__sparsity=0.97, metrics__accuracy=0.8)
    make_run(tmp_path / "b", run__method="movement", metrics__accuracy=0.7)
    make_run(tmp_path / "c", run__method="smp", metrics__accuracy=0.85)
    make_run(tmp_path / "d", run__method="dense", metrics__accuracy=0.6)
    make_run(tmp_path / "e", run__task="rte", run__method="smp", metrics__accuracy=0.1)
    whole: dict[str, Any] = {"run__sparsity": 0.0, "run__remaining": 1.0, "weights__kept": 20}
    make_run(tmp_path / "f", run__method="magnitude", metrics__accuracy=0.99, **whole)
    assert [(row.task, row.method, row.sparsity) for row in compare(tmp_path).rows] == [
        ("rte", "smp", 0.9),
        ("sst2", "dense", 0.0),
        ("sst2", "magnitude", 0.0),
        ("sst2", "smp", 0.9),
        ("sst2", "movement", 0.9),
        ("sst2", "smp", 0.97),
    ]


def test_the_same_run_twice_counts_once_and_is_named(tmp_path: Path, make_run: MakeRun) -> None:
    first = make_run(tmp_path / "a", metrics__accuracy=0.8)
    second = make_run(tmp_path / "b", metrics__accuracy=0.9)
    comparison = compare(tmp_path)
    assert [(row.n, row.mean) for row in comparison.rows] == [(1, 0.8)]
    ((path, reason),) = comparison.problems
    assert path == second
    assert reason.startswith("same run twice")
    assert str(first) in reason


def test_folders_are_walked_once_each_and_links_that_loop_end(tmp_path: Path, make_run: MakeRun) -> None:
    deep = make_run(tmp_path / "sweep/deep/a", run__seed=0)
    make_run(deep / "checkpoint", run__seed=5)  # what a run holds isn't a run of its own
    make_run(tmp_path / "b", run__seed=1)
    (tmp_path / "sweep/deep/loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "again").symlink_to(deep, target_is_directory=True)
    assert only(compare(tmp_path)).seeds == (0, 1)
    assert only(compare(tmp_path, tmp_path / "sweep", deep)).seeds == (0, 1)


def test_a_run_itself_can_be_named(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", run__seed=0)
    b = make_run(tmp_path / "b", run__seed=1)
    assert only(compare(str(b))).seeds == (1,)


def test_results_is_the_default(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "results/a")
    monkeypatch.chdir(tmp_path)
    assert only(compare()).runs == (str(Path("results/a")),)


def test_an_unfinished_run_is_listed(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a")
    unfinished = make_run(tmp_path / "b", run__seed=1)
    (unfinished / "result.json").unlink()
    comparison = compare(tmp_path)
    assert [row.seeds for row in comparison.rows] == [(0,)]
    ((path, reason),) = comparison.problems
    assert path == unfinished
    assert reason.startswith("unfinished: ")


def test_unfinished_runs_alone_are_a_comparison_without_rows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/settings.yaml").write_text("seed: 1\n")
    comparison = compare(tmp_path)
    assert comparison.rows == []
    assert len(comparison.problems) == 1
    assert comparison.to_frame().empty
    comparison.to_csv(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("task,model,head,method,sparsity,")


def _text(**changes: Any) -> str:
    return json.dumps(plain_result(**changes))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("result.json", "", "isn't JSON"),
        ("result.json", '{"schema": 1', "isn't JSON"),
        ("result.json", "[" * 100_000, "isn't JSON"),
        ("result.json", "[1]", '"schema"'),
        ("result.json", "{}", '"schema"'),
        ("result.json", _text(schema=True), '"schema"'),
        ("result.json", _text(schema=0), '"schema"'),
        ("result.json", _text(schema="1"), '"schema"'),
        ("result.json", _text(schema=2), "schema 2 and this smp reads up to 1; upgrade smp"),
        ("result.json", _text(metrics__accuracy=math.nan), "NaN"),
        ("result.json", _text().replace("0.86", "1e999"), "metrics.accuracy"),
        ("result.json", _text(metrics__accuracy="0.86"), "metrics.accuracy"),
        ("result.json", _text(metric="pearson"), "metrics lacks 'pearson'"),
        ("result.json", _text(run__seed=0.5), "run.seed"),
        ("result.json", _text(run__seed=True), "run.seed"),
        ("result.json", _text(run__sparsity=1.0), "run.sparsity"),
        ("result.json", _text(run__sparsity=-0.1), "run.sparsity"),
        ("result.json", _text(run__remaining=0.2), "kept / prunable is 0.1"),
        ("result.json", _text(run__started="yesterday"), "run.started"),
        ("result.json", _text(run__started="2025-03-01T12:00:00"), "without its zone"),
        ("result.json", _text(weights__kept=21), "kept <= prunable"),
        ("result.json", _text(weights__prunable=51), "prunable <= total"),
        ("result.json", _text(task_bytes=-1), "task_bytes"),
        ("result.json", _text(files={"mask.safetensors": 5}), "mask.safetensors has"),
        ("result.json", _text(files={"head.safetensors": 5}), "head.safetensors is missing"),
        ("result.json", b"\xff\xfe{", "isn't UTF-8"),
        ("mask.safetensors", None, "mask.safetensors is missing"),
        ("mask.safetensors", MASK[:-1], "mask.safetensors has"),
        ("settings.yaml", None, "settings.yaml is missing"),
        ("settings.yaml", "a: [1\nb: 2", "line 2"),
        ("settings.yaml", "- a", "mapping"),
        ("settings.yaml", "a: &x\n  b: *x\n", "aliases"),
    ],
    ids=short,
)
def test_a_damaged_run_is_listed_with_the_reason_and_the_others_count(
    tmp_path: Path, make_run: MakeRun, name: str, content: str | bytes | None, reason: str
) -> None:
    make_run(tmp_path / "good", run__seed=1)
    bad = make_run(tmp_path / "bad", run__seed=2)
    if content is None:
        (bad / name).unlink()
    else:
        (bad / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    comparison = compare(tmp_path)
    assert [row.seeds for row in comparison.rows] == [(1,)]
    ((path, found),) = comparison.problems
    assert path == bad
    assert found.startswith("damaged: ")
    assert reason in found
    assert "\n" not in found


def test_a_pruned_run_needs_its_mask_even_if_its_result_names_no_files(tmp_path: Path, make_run: MakeRun) -> None:
    run = make_run(tmp_path / "a", files={})
    ((path, reason),) = compare(tmp_path).problems
    assert (path, reason) == (run, "damaged: mask.safetensors is missing")


# Came later than the schema's first version: older results lack them.
LATER = {("warnings",), ("environment", "processes")}
LATER |= {("data", key) for key in ("dev_digests", "files", "cut", "special_tokens")}
LATER |= {("data", key) for key in ("columns", "kind", "labels", "range", "left_out", "overlap")}


def _places(block: dict[str, Any], at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    places = []
    for key, value in block.items():
        if (*at, key) in LATER:
            continue
        places.append((*at, key))
        # What is inside these is free.
        if isinstance(value, dict) and key not in ("metrics", "files", "report", "dev"):
            places += _places(value, (*at, key))
    return places


@pytest.mark.parametrize("place", _places(plain_result()), ids=".".join)
def test_every_key_of_the_schema_is_needed_and_named(
    tmp_path: Path, make_run: MakeRun, place: tuple[str, ...]
) -> None:
    run = make_run(tmp_path / "a")
    result = plain_result()
    block = result
    for key in place[:-1]:
        block = block[key]
    del block[place[-1]]
    (run / "result.json").write_text(json.dumps(result))
    ((_, reason),) = compare(tmp_path).problems
    assert reason.startswith("damaged: ")
    assert ".".join(place) in reason


def test_keys_of_a_later_minor_change_are_no_damage(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", new=1, run__new="x")
    assert only(compare(tmp_path)).n == 1


def test_a_place_without_runs_says_what_a_run_is(tmp_path: Path) -> None:
    (tmp_path / "empty/inside").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for name, what in (("nowhere", "is not there"), ("file", "is a file"), ("empty", "no runs in there")):
        with pytest.raises(UserError, match=f"{name}.*{what}.*smp prune … --output"):
            compare(tmp_path / name)


def test_a_folder_that_cannot_be_read_is_listed(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "a")
    closed = tmp_path / "closed"
    closed.mkdir()
    is_file = Path.is_file

    def refuse(path: Path) -> bool:  # root may read everything, so the refusal is made here
        if path.parent == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    comparison = compare(tmp_path)
    assert len(comparison.rows) == 1
    ((path, reason),) = comparison.problems
    assert path.is_relative_to(closed)
    assert reason == "unreadable: Permission denied"


def test_csv_keeps_every_digit(tmp_path: Path, make_run: MakeRun) -> None:
    third = 1 / 3
    make_run(tmp_path / "r/a", run__seed=0, metrics__accuracy=third)
    make_run(tmp_path / "r/b", run__seed=1, metrics__accuracy=0.1)
    make_run(tmp_path / "r/c", run__seed=0, run__sparsity=0.95)
    comparison = compare(tmp_path / "r")
    comparison.to_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert float(first["mean"]) == comparison.rows[0].mean == (third + 0.1) / 2
    assert float(first["std"]) == comparison.rows[0].std
    assert (first["n"], first["seeds"], first["task_bytes"]) == ("2", "0 1", "1331200")
    assert (second["std"], second["difference"], second["settings"]) == ("", "", "")
    # As text: before version 3, pandas rounds the numbers that it reads.
    again = pd.read_csv(tmp_path / "out.csv", dtype=str)
    assert list(again.columns) == list(comparison.to_frame().columns)
    assert [float(mean) for mean in again["mean"]] == [row.mean for row in comparison.rows]


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_holds_no_formula(tmp_path: Path, make_run: MakeRun, sign: str) -> None:
    name = f'{sign}HYPERLINK("x")'
    make_run(tmp_path / "r/a", run__task=name, model__name=name, run__method=name)
    # A loss is a number that begins with "-" and stays one.
    make_run(tmp_path / "r/b", run__task=name, model__name=name, run__method="dense", metrics__accuracy=0.9)
    compare(tmp_path / "r").to_csv(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        (row,) = [row for row in csv.DictReader(file) if row["method"] != "dense"]
    assert row["task"] == row["model"] == row["method"] == f"'{name}"
    assert float(row["difference"]) == pytest.approx(-0.04)


def test_a_csv_that_fails_leaves_the_old_one(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "r/a")
    comparison = compare(tmp_path / "r")
    out = tmp_path / "csv" / "out.csv"
    comparison.to_csv(out)
    before = out.read_bytes()

    def half(_: pd.DataFrame, path: Path, **__: Any) -> None:
        path.write_text("task,mod")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", half)
    with pytest.raises(UserError, match="No space left"):
        comparison.to_csv(out)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_json_is_plain(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", run__seed=4)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/settings.yaml").write_text("")
    value = json.loads(json.dumps(compare(tmp_path).to_json(), allow_nan=False))
    (row,) = value["rows"]
    assert (row["mean"], row["std"], row["seeds"], row["runs"]) == (0.86, None, [4], [str(tmp_path / "a")])
    assert value["problems"][0]["path"] == str(tmp_path / "b")


# -- what a row is beside its figures ----------------------------------------------------------------------


def test_a_person_s_own_sst2_stands_beside_no_published_figure(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "own", settings={"task": "/data/sst2.csv"}, data__digest="a" * 64)
    make_run(tmp_path / "own2", settings={"task": "/data/sst2.yaml"}, data__digest="b" * 64)
    found = compare(tmp_path, with_published=True)
    assert found.published == [] and [row.built_in for row in found.rows] == [False, False]
    # Beside it the task itself: the figures go there, and there alone.
    make_run(tmp_path / "ours", data__digest="c" * 64)
    found = compare(tmp_path, with_published=True)
    assert {(row.task, row.metric) for row in found.published} == {("sst2", "accuracy")}
    assert [(row.data_digest[0], row.built_in) for row in found.rows] == [("a", False), ("b", False), ("c", True)]
    assert [bool(others) for _, _, others in sections(found)] == [False, False, True]
    assert found.to_markdown().count("SMP-S †") == 1


@pytest.mark.parametrize("format", ["table", "markdown", "latex", "csv", "json", "page"])
def test_a_row_that_predicts_one_class_only_is_marked_everywhere(
    tmp_path: Path, make_run: MakeRun, format: str
) -> None:
    """Of smp seed 1 predicts the second class alone; movement predicts both, and of magnitude nothing is kept."""
    labels = [0, 1, 1, 1]
    guesses = {("smp", 0): [0, 1, 1, 1], ("smp", 1): [1] * 4, ("movement", 0): [0, 1, 1, 0], ("magnitude", 0): []}
    for (method, seed), guess in guesses.items():
        run = make_run(tmp_path / f"{method}{seed}", run__method=method, run__seed=seed, metrics__accuracy=0.75)
        if guess:
            write_predictions(run, dev=(labels, guess))
    found = compare(tmp_path)
    assert {row.method: row.one_class for row in found.rows} == {"smp": (1,), "movement": (), "magnitude": ()}
    note = "predicts one class only (or one number, one answer), with one of its seeds or more"
    match format:
        case "csv":
            found.to_csv(tmp_path / "out.csv")
            frame = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
            assert dict(zip(frame["method"], frame["one_class"], strict=True)) == {
                "smp": "1", "movement": "", "magnitude": "",
            }  # fmt: skip
        case "json":
            rows = json.loads(json.dumps(found.to_json()))["rows"]
            assert {row["method"]: row["one_class"] for row in rows} == {"smp": [1], "movement": [], "magnitude": []}
        case "page":
            (table,) = contents(found)["tables"]
            shown = {row["cells"][0][1]: row["cells"][4][1] for row in table["rows"]}
            assert shown == {"smp": "75.00 ± 0.00 !", "movement": "75.00", "magnitude": "75.00"}
            assert table["notes"] == [f"! {note}"]
        case _:
            if format == "table":
                console = Console(file=io.StringIO(), width=100)
                console.print(found)
                text = console.file.getvalue()  # type: ignore[attr-defined]
            else:
                text = getattr(found, f"to_{format}")()
            marked = [line for line in text.splitlines() if "75.00" in line and " !" in line]
            assert len(marked) == 1 and "smp" in marked[0]
            assert note in text


def test_a_mark_for_all_seeds_names_none(tmp_path: Path, make_run: MakeRun) -> None:
    for seed in (0, 1):
        write_predictions(make_run(tmp_path / str(seed), run__seed=seed), dev=([0, 1], [1, 1]))
    found = compare(tmp_path)
    assert found.rows[0].one_class == (0, 1)
    assert "! predicts one class only (or one number, one answer)\n" in found.to_markdown() + "\n"
