"""Markdown and LaTeX: the figures of the table, and no name that breaks either."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from handmade import MakeRun
from test_bootstrap import write_predictions

from smpcli.comparison.compare import Comparison, compare


@pytest.fixture
def study(tmp_path: Path, make_run: MakeRun) -> Comparison:
    """dense 80 %, smp 70 % (of 40 examples) and movement 60 ± 14.14 %, at 90 % sparsity."""
    for method, seed, right in (("dense", 0, 32), ("smp", 0, 28), ("movement", 0, 28), ("movement", 1, 20)):
        run = make_run(tmp_path / f"{method}{seed}", run__method=method, run__seed=seed, metrics__accuracy=right / 40)
        write_predictions(run, dev=([1] * 40, [1] * right + [0] * (40 - right)))
    return compare(tmp_path, with_published=True)


def markdown_rows(text: str) -> list[list[str]]:
    # An escaped bar ends no cell.
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_says_what_the_table_says(study: Comparison) -> None:
    text = study.to_markdown()
    header, rule, dense, smp, movement, *others = markdown_rows(text)
    assert text.startswith("**sst2 on minilm, prototype head**\n\n| method | sparsity |")
    assert len(header) == len(rule) == len(dense) == len(smp) == len(movement) == 10
    assert smp[:6] == ["smp", "90 %", "10 %", "**70.00**", "1", "−10.00"]
    assert re.fullmatch(r"−\d+\.\d to −\d+\.\d", smp[6])
    assert movement[3:6] == ["60.00 ± 14.14", "2", "−20.00"]
    assert dense[3:7] == ["80.00", "1", "", ""]
    assert others and all("†" in row[0] and row[4] == "" for row in others)
    assert "† published for bert-base-uncased, not run here: Zhang et al. 2022, arXiv 2206.12562" in text
    # PLATON's paper: 90.5 at 90 %; Mukherjee et al., table of GLUE: MiniLM of 22 million weights has 91.3 on SST.
    shown = {row[0]: row[1:4] for row in others}
    assert shown["PLATON † (bert-base-uncased)"] == ["90 %", "10 %", "90.5"]
    assert shown["MiniLM-L6-H384 † (MiniLM-L6-H384, small model)"] == ["", "", "91.3"]


def test_latex_says_what_the_table_says(study: Comparison) -> None:
    text = study.to_latex()
    assert text.count(r"\begin{tabular}{lrrrrrrrrr}") == text.count(r"\end{tabular}") == 1
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1 and text.count(r"\midrule") == 2
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(len(re.split(r"(?<!\\)&", row)) == 10 for row in rows)
    assert r"smp & 90 \% & 10 \% & \textbf{70.00} & 1 & $-$10.00 & $-$" in text
    assert r"movement & 90 \% & 10 \% & 60.00 $\pm$ 14.14 & 2 & $-$20.00 & " in text
    assert r"SMP-S $\dagger$ (bert-base-uncased)" in text
    assert "% † published for small models, unpruned, not run here: Mukherjee et al. 2021" in text


def test_names_break_neither(tmp_path: Path, make_run: MakeRun) -> None:
    name = "a|b_*[x](y)<i>&%$#{}~^\\ \n|x"
    for seed, method in enumerate((name, "smp")):
        make_run(tmp_path / f"r{seed}", run__method=method, run__task=name, settings={name: name * seed})
    found = compare(tmp_path)
    rows = markdown_rows(found.to_markdown())
    assert len(rows) == 4 and {len(row) for row in rows} == {10}
    assert "<i>" not in found.to_markdown() and not re.search(r"(?<!\\)\[x", found.to_markdown())
    latex = [line for line in found.to_latex().splitlines() if not line.startswith("%")]
    assert len([line for line in latex if line.endswith(r"\\")]) == 3
    bare = re.sub(r"\\[a-zA-Z]+\{\}|\\[&%$#_{}]|\$-\$|\$\\pm\$|\\textbf|---", "", "\n".join(latex[3:-2]))
    # What is left of every special character: the cells' own &, the line breaks and the braces of {[} and {*}.
    assert set(re.findall(r"[%$#_~^]", bare)) == set()
    assert all(len(re.findall(r"&", line)) == 9 for line in bare.splitlines() if line.endswith(r"\\"))


def test_a_comparison_without_rows_is_empty_text(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/settings.yaml").write_text("seed: 1\n")
    found = compare(tmp_path)
    assert found.to_markdown() == found.to_latex() == ""
    assert found.csv_text().startswith("task,model,")


def test_csv_text_is_the_file(study: Comparison, tmp_path: Path) -> None:
    study.to_csv(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == study.csv_text()
