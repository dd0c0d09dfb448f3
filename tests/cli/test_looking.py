"""smp compare and smp inspect as a person uses them, on real runs of pico models."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commandline import PRUNABLE, Smp, listing, make_run
from safetensors import safe_open


@pytest.fixture(scope="session")
def study(on_pico: list[str], finished: Path, dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """dense, smp at 0.9 and another at 0.5."""
    folder = tmp_path_factory.mktemp("study") / "results"
    for run in (finished, dense):
        shutil.copytree(run, folder / run.name)
    make_run("prune", "--method", "movement", "--sparsity", "0.5", *on_pico, "--output", folder)
    return folder


def test_compare_in_every_format(smp: Smp, study: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    rows = smp("compare", study, "--csv", target, "--json").json["rows"]
    assert [row["method"] for row in rows] == ["dense", "movement", "smp"]
    # The runs' own predictions were found: both pruned rows have an interval around their difference.
    for row in rows[1:]:
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert row["difference_low"] < row["difference_high"]
    assert smp("compare", study, "--csv", target, "--format", "json").json["rows"] == rows

    done = smp("compare", study, "--csv", target, "--format", "csv").ok()
    assert [row["method"] for row in csv.DictReader(io.StringIO(done.out))] == ["dense", "movement", "smp"]
    assert done.out == target.read_text(encoding="utf-8")
    # int(0.1 * prunable) of the pico model's 14,336 weights is 9.996 %.
    assert "| smp | 90 % | 9.996 % |" in smp("compare", study, "--csv", target, "--format", "markdown").ok().out
    assert r"smp & 90 \% & 9.996 \% & " in smp("compare", study, "--csv", target, "--format", "latex").ok().out
    table = smp("compare", study, "--csv", target).ok().out
    assert "vs dense: with its 95 % interval" in table and "[" in table


def test_compare_filters_sorts_draws_and_makes_a_page(smp: Smp, study: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    found = smp("compare", study, "--csv", target, "--method", "smp", "--method", "dense", "--sort", "-sparsity",
                "--where", "max_steps=6", "--json").json  # fmt: skip
    assert [row["method"] for row in found["rows"]] == ["smp", "dense"]
    found = smp("compare", study, "--csv", target, "--metric", "macro_f1", "--json").json
    assert {row["metric"] for row in found["rows"]} == {"macro_f1"}
    assert all(row["difference_low"] is not None for row in found["rows"] if row["method"] != "dense")

    done = smp("compare", study, "--csv", target, "--plot", tmp_path / "a.svg", "--html", tmp_path / "a.html").ok()
    for name in ("out.csv", "a.svg", "a.html"):
        assert str(tmp_path / name) in done.err
    assert (tmp_path / "a.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--plot", "a.jpg"], ".png, .svg, .pdf"),
        (["--format", "xml"], "'xml' is not one of"),
        (["--method", "mp"], "did you mean 'smp'"),
        (["--task", "nli"], "unknown task 'nli'"),
        (["--where", "init"], "--where takes key=value"),
        (["--where", "ini=zero"], "did you mean 'init'"),
        (["--sort", "acuracy"], "unknown column"),
        (["--metric", "matthews"], "no run here has the metric"),
        (["--where", "seed=7"], "no finished run with these filters"),
        (["--where", "seed=7", "--plot", "a.png"], "no finished run with these filters"),
        (["--where", "seed=7", "--html", "a.html"], "or widen the filters"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_compare_refuses_is_one_line_and_writes_nothing(
    smp: Smp, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listing(study)
    done = smp("compare", study, "--csv", tmp_path / "out.csv", *flags)
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and message in done.err
    assert list(tmp_path.iterdir()) == [] and listing(study) == before


def test_a_comparison_of_nothing_is_refused_with_the_reasons(
    smp: Smp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "settings.yaml").write_text("seed: 1\n", encoding="utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = listing(tmp_path)
    for args in ([Path("../runs")], [Path("../runs/a"), Path("../runs/b")], [tmp_path / "runs", "--html", "a.html"]):
        done = smp("compare", *args)
        assert done.code == 2 and done.out == ""
        first, second, error = done.err.splitlines()
        assert first.startswith("left out: ") and "unfinished" in first and "unfinished" in second
        assert error.startswith("error: nothing to compare in ") and "left out for the reasons given: 2" in error
    done = smp("compare", tmp_path / "runs", "--json")
    assert (
        done.code == 2
        and [problem["reason"][:10] for problem in json.loads(done.out)["problems"]] == ["unfinished"] * 2
    )
    assert done.err.count("\n") == 1 and listing(tmp_path) == before


def test_a_csv_that_was_not_asked_for_lies_beside_runs_only(
    smp: Smp, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "things" / "results"
    shutil.copytree(study, results)
    monkeypatch.chdir(tmp_path)
    done = smp("compare", "things").ok()
    assert "no CSV is written" in done.err and "--csv FILE" in done.err
    assert not list(tmp_path.rglob("*.csv"))
    assert smp("compare", "things", "--quiet").ok().err == ""
    # A run is named, and the current folder is where it lies; or the folder of runs is.
    run = min(path for path in results.iterdir())
    monkeypatch.chdir(results)
    smp("compare", run.name).ok()
    written = results / "comparison.csv"
    assert "written to comparison.csv" in smp("compare", ".").ok().err
    assert list(tmp_path.rglob("*.csv")) == [written]
    smp("compare", tmp_path / "things", "--csv", tmp_path / "asked.csv").ok()
    assert (tmp_path / "asked.csv").is_file()
    # In the run itself, whose folder holds nothing else.
    written.unlink()
    monkeypatch.chdir(run)
    smp("compare", ".").ok()
    assert list(tmp_path.rglob("comparison.csv")) == [written]


def test_inspect_counts_what_is_in_the_mask(smp: Smp, finished: Path) -> None:
    (run,) = smp("inspect", finished, "--json").json["runs"]
    with safe_open(finished / "mask.safetensors", framework="numpy") as file:
        shapes = json.loads(file.metadata()["smp"])["shapes"]
        masks = {
            name: np.unpackbits(file.get_tensor(name))[: int(np.prod(shape))].reshape(shape)
            for name, shape in shapes.items()
        }
    assert len(run["matrices"]) == len(masks) == 12
    for matrix in run["matrices"]:
        mask = masks[matrix["name"]]
        assert matrix["kept"] == mask.sum()
        assert matrix["empty_rows"] == (mask.sum(1) == 0).sum()
        assert matrix["empty_columns"] == (mask.sum(0) == 0).sum()
    assert run["density"]["whole"] == (PRUNABLE // 10) / PRUNABLE
    assert run["density"]["layers"] == [0, 1] and len(run["density"]["kinds"]) == 6
    # The pico model's own configuration says how many heads there are.
    assert run["compact"]["heads"]["total"] == 2 * 2 and run["compact"]["neurons"]["total"] == 2 * 48
    assert run["compact"]["compact_area"] <= run["compact"]["filled_area"] <= run["compact"]["area"] == PRUNABLE


def test_inspect_shows_how_the_mask_moved(smp: Smp, on_pico: list[str], tmp_path: Path) -> None:
    """Four evaluations of six steps; the first has nothing before it."""
    run = make_run("prune", *on_pico, "--set", "evaluations=4", "--set", "scores_lr=0.5", "--output", tmp_path)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluated = [row for row in rows if "accuracy" in row]
    assert ["turnover" in row for row in evaluated] == [False, True, True, True]
    assert all(0 <= row["turnover"] <= 1 for row in evaluated[1:])
    assert any(row["turnover"] > 0 for row in evaluated[1:])
    (found,) = smp("inspect", run, "--json").json["runs"]
    assert [row["turnover"] for row in found["turnover"]] == [row["turnover"] for row in evaluated[1:]]
    assert "how the mask moved" in smp("inspect", run).ok().out


def test_inspect_two_runs_and_a_picture(smp: Smp, study: Path, dense: Path, worded: Path, tmp_path: Path) -> None:
    one, other = (next(study.glob(f"*-{name}-*")) for name in ("smp", "movement"))
    done = smp("inspect", one, other, "--plot", tmp_path / "heat.png").ok()
    assert "times chance" in done.out and str(tmp_path / "heat.png") in done.err
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
    overlap = smp("inspect", one, other, "--json").json["overlap"]
    assert 0 < overlap["jaccard"]["whole"] < 1 and overlap["chance"]["whole"] < overlap["jaccard"]["whole"]
    for arguments, message in (
        ([dense], "has no mask, as method 'dense' prunes nothing"),
        ([study], "is not a run but holds 3 runs"),
        ([one, "--plot", tmp_path / "heat.bmp"], ".png, .svg, .pdf"),
    ):
        refused = smp("inspect", *arguments)
        assert refused.code == 2 and refused.out == "" and message in refused.err
        assert refused.err.count("\n") == 1
