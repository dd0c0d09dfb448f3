"""The tables of docs/results.md and its notes are those of the files that `smp compare --csv` wrote."""

from __future__ import annotations

import importlib.util
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from smpcli.comparison.compare import Comparison

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("results_pages", ROOT / "benchmarks" / "results_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = sorted((ROOT / "docs" / "results").glob("*.csv"))


def test_pages_are_as_the_files_have_them(script: Any) -> None:
    with_tables = []
    for page in script.pages():
        text = page.read_text(encoding="utf-8")
        assert script.remade(text) == text, f"{page.name}: make it again: python benchmarks/results_pages.py"
        with_tables += [page.name] * ("<!-- table: " in text)
        assert text.count("<!-- table: ") == text.count("<!-- end of table -->") == len(script.TABLE.findall(text))
    assert {"results.md", "all-methods.md", "small-tasks.md", "default-recipe.md", "ablations.md"} <= set(with_tables)


def test_a_figure_that_is_changed_by_hand_is_found(script: Any) -> None:
    text = (ROOT / "docs" / "results" / "all-methods.md").read_text(encoding="utf-8")
    changed = text.replace("85.47 ± 0.29", "85.57 ± 0.29", 1)
    assert changed != text == script.remade(changed)


def test_every_file_stands_behind_a_table(script: Any) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in script.pages())
    asked = " ".join(re.findall(r"<!-- table: (.+?) -->", pages)).split()
    assert {word for word in asked if "=" not in word} == {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_have_the_columns_of_compare_and_agree_with_themselves(path: Path, script: Any) -> None:
    rows = script.read(path)
    assert list(rows[0]) == Comparison([], []).to_frame().columns.tolist()
    for row in rows:
        if row["method"] == "floor":
            assert not row["n"] and not row["sparsity"] and float(row["mean"]) and row["settings"]
            continue
        values = [float(value) for value in row["values"].split()]
        assert int(row["n"]) == len(row["seeds"].split()) and (not values or len(values) == int(row["n"]))
        if values:
            assert float(row["mean"]) == pytest.approx(statistics.fmean(values), abs=1e-9)
        if len(values) > 1:
            assert float(row["std"]) == pytest.approx(statistics.stdev(values), abs=1e-9)
        assert float(row["remaining"]) == pytest.approx(1 - float(row["sparsity"]), abs=1e-4)
        dense = [other for other in rows if other["method"] == "dense" and other["task"] == row["task"]]
        if len(dense) == 1:
            assert float(row["difference"]) == pytest.approx(float(row["mean"]) - float(dense[0]["mean"]), abs=1e-9)
        # An interval is whole or not there.
        assert bool(row["difference_low"]) == bool(row["difference_high"])


HEAD = "task,method,sparsity,metric,mean,std,n,best,steps,kd,settings,values\n"
ROWS = {
    "one.csv": "t,dense,0.0,acc,0.9,0.0123,2,False,2106,False,,0.8913 0.9087\n"
    "t,smp,0.9,acc,0.8,,1,True,2106,False,,0.8\n"
    "t,smp,0.9,acc,0.75,0.01,2,False,2106,True,,0.74 0.76\n",
    "two.csv": "t,smp,0.5,acc,0.85,,1,True,400,False,init=zero,0.85\nt,l0,0.5,acc,0.85,,1,True,400,False,,0.85\n",
}


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        (
            "one.csv two.csv rows=steps,method columns=sparsity",
            [
                "| steps | method | 0 % | 50 % | 90 % |",
                "| --- | --- | --- | --- | --- |",
                "| 2,106 | dense | 90.00 ± 1.23 |  |  |",
                "| 2,106 | smp |  |  | **80.00 (n = 1)** |",
                "| 2,106 | smp + KD |  |  | 75.00 ± 1.00 |",
                # Both are best: neither leads.
                "| 400 | smp |  | 85.00 (n = 1) |  |",
                "| 400 | l0 |  | 85.00 (n = 1) |  |",
            ],
        ),
        (
            "two.csv rows=settings,sparsity columns=method",
            [
                "| settings | sparsity | smp | l0 |",
                "| --- | --- | --- | --- |",
                "| `init=zero` | 50 % | 85.00 |  |",
                "| — | 50 % |  | 85.00 |",
            ],
        ),
        (
            "one.csv rows=method columns=metric cells=both",
            [
                "| method | acc |",
                "| --- | --- |",
                "| dense | 90.00 ± 1.23: 89.13, 90.87 |",
                "| smp | **80.00 (n = 1)** |",
                "| smp + KD | 75.00 ± 1.00: 74.00, 76.00 |",
            ],
        ),
    ],
)
def test_a_table_is_what_its_comment_asks_for(
    asked: str, lines: list[str], script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, rows in ROWS.items():
        (tmp_path / name).write_text(HEAD + rows)
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    page = f"a\n<!-- table: {asked} -->\nwhat was there\n<!-- end of table -->\nb\n"
    made = script.remade(page)
    assert made == f"a\n<!-- table: {asked} -->\n\n" + "\n".join(lines) + "\n\n<!-- end of table -->\nb\n"
    assert script.remade(made) == made
    with pytest.raises(ValueError, match=r"two rows for smp at 0\.9"):
        script.table("one.csv rows=settings columns=sparsity")
