from __future__ import annotations

import io
from pathlib import Path

import pytest
from handmade import MakeRun
from rich.console import Console

from smpcli.comparison.compare import Comparison, compare
from smpcli.text import human_bytes, human_count, human_time

METHODS = ("smp", "movement", "soft-movement", "magnitude")


def show(comparison: Comparison, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(comparison)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def sweep(tmp_path: Path, make_run: MakeRun) -> Path:
    """Dense and four methods at 50, 90 and 97 %, two seeds: the table of the docs, at the size of a real model."""
    prunable = 10_616_832
    real = {"weights__total": 22_713_216, "weights__prunable": prunable, "run__seconds": 745.0}
    for seed in (0, 1):
        at = 0.8 + seed / 100
        make_run(
            tmp_path / f"dense-{seed}", run__method="dense", run__seed=seed, metrics__accuracy=at + 0.07,
            weights__trained=22_713_216, task_bytes=90_852_864,
        )  # fmt: skip
        for sparsity in (0.5, 0.9, 0.97):
            kept = int((1 - sparsity) * prunable)
            for rank, method in enumerate(METHODS):
                make_run(
                    tmp_path / f"{method}-{sparsity}-{seed}",
                    run__method=method, run__seed=seed, run__sparsity=sparsity, run__remaining=kept / prunable,
                    weights__kept=kept, metrics__accuracy=at - rank / 100, **real,
                    **({"weights__trained": 0} if method == "smp" else {"weights__trained": 22_713_216}),
                )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("width", [80, 100, 120])
def test_every_row_is_one_line_that_fits(sweep: Path, width: int) -> None:
    lines = show(compare(sweep), width)
    assert max(map(len, lines)) <= width
    assert "sst2 on minilm, prototype head" in lines[0]
    for method in METHODS:
        rows = [line for line in lines if line.startswith(f"{method} ")]
        assert len(rows) == 3
        assert all(line.rstrip().endswith("12:25") for line in rows)
    assert sum(bool(line.strip()) for line in lines) == 13 + len(("title", "header", "header", "rule", "caption"))


def test_figures_of_a_row(sweep: Path) -> None:
    lines = show(compare(sweep), 100)
    dense, *pruned = [line.split() for line in lines if line.startswith(("dense ", *METHODS))]
    # Accuracies 0.87, 0.88: mean 87.5 %, sample deviation 0.01 / sqrt(2).
    assert dense == "dense 0 % 100 % 87.50 ± 0.71 2 50 91 MB 5:00".split()
    assert pruned[0] == "smp 50 % 50 % *80.50 ± 0.71 2 -7.00 0 1.3 MB 12:25".split()
    assert pruned[1] == "movement 50 % 50 % 79.50 ± 0.71 2 -8.00 23 M 1.3 MB 12:25".split()
    assert pruned[-1][:5] == "magnitude 97 % 3 %".split()


def test_the_best_of_each_sparsity_is_marked_and_only_it(sweep: Path) -> None:
    lines = show(compare(sweep), 100)
    marked = [line.split()[0] for line in lines if "*" in line]
    assert marked == ["smp", "smp", "smp", "*"]  # and the caption


def test_alone_at_its_sparsity_is_no_victory(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", run__method="dense")
    assert not any("*" in line for line in show(compare(tmp_path)))


def test_one_run_shows_no_deviation(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", metrics__accuracy=0.8625)
    (line,) = [line for line in show(compare(tmp_path)) if line.startswith("smp ")]
    assert line.split() == "smp 90 % 10 % 86.25 1 0 1.3 MB 5:00".split()


def test_tables_name_digests_where_names_are_alike(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", data__digest="a" * 64)
    make_run(tmp_path / "b", data__digest="b" * 64)
    make_run(tmp_path / "c", run__task="rte")
    titles = [line.strip() for line in show(compare(tmp_path)) if " on " in line]
    assert titles == [
        "rte on minilm, prototype head",
        "sst2 on minilm, prototype head, data aaaaaaaa",
        "sst2 on minilm, prototype head, data bbbbbbbb",
    ]


def test_differing_settings_stand_below_the_method(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", settings={"init": "zero"})
    make_run(tmp_path / "b", settings={"init": "activation"}, run__seed=1)
    for width in (80, 120):
        text = "\n".join(show(compare(tmp_path), width))
        assert "init=zero" in text
        assert "init=activation" in text


def test_left_out_runs_are_shown_with_the_reason(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/settings.yaml").write_text("seed: 1\n")
    lines = show(compare(tmp_path), width=400)
    assert "Left out (1):" in lines
    assert lines[-1].startswith(f"  {tmp_path / 'b'}: unfinished: ")


def test_names_from_files_cannot_steer_the_terminal(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a", run__task="[red]t[/red]\x1b[2J", run__method="[bold]m\x1b]0;x\x07")
    text = "\n".join(show(compare(tmp_path)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]t[/red]" in text
    assert "[bold]m" in text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_331_200, "1.3 MB"),
        (9_949_999, "9.9 MB"),
        (9_950_000, "10 MB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (437_951_328, "438 MB"),
        (5_000_000_000_000, "5000 GB"),
    ],
)
def test_human_bytes(number: int, text: str) -> None:
    assert human_bytes(number) == text


def test_human_counts_and_times() -> None:
    assert [human_count(n) for n in (0, 999, 10_616_832, 1_500_000_000)] == ["0", "999", "11 M", "1.5 G"]
    assert [human_time(s) for s in (0.0, 59.6, 545.0, 7500.2)] == ["0:00", "1:00", "9:05", "125:00"]
