"""`smp reproduce` from outside, on a pico model and generated MNLI files: the code path of the paper's tables."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commandline import Smp, listing

LABELS = ("entailment", "neutral", "contradiction")


@pytest.fixture(scope="module")
def mnli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files as MNLI's."""
    folder = tmp_path_factory.mktemp("glue")
    (folder / "MNLI").mkdir()
    # No row of one file is in another.
    for name, word, rows in (("train", "actor", 48), ("dev_matched", "role", 24), ("dev_mismatched", "cast", 21)):
        lines = ["index\tsentence1\tsentence2\tgold_label"]
        for index in range(rows):
            words = f"{word} good film scene bad plot".split()
            texts = " ".join(words[: 1 + index % 5]), " ".join(words[index % 4 :])
            lines.append("\t".join([str(index), *texts, LABELS[index % 3]]))
        (folder / "MNLI" / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_table_from_data_to_difference_and_again(
    smp: Smp, pico: Callable[[str], Path], mnli: Path, tmp_path: Path
) -> None:
    output = tmp_path / "results"
    command = ["reproduce", "mnli-kd-10", "--model", pico("bert-mlm"), "--data-dir", mnli, "--output", output]
    command += ["--max-steps", 4, "--seeds", "0,1"]

    planned = smp(*command, "--dry-run", "--json").json
    assert [run["state"] for run in planned["runs"]] == ["waiting"] * 3
    assert not output.exists()
    assert "83.7" in smp(*command, "--dry-run").ok().out

    found = smp(*command, "--json").json
    assert [(run["method"], run["seed"], run["state"]) for run in found["runs"]] == [
        ("dense", 0, "finished"),
        ("smp", 0, "finished"),
        ("smp", 1, "finished"),
    ]
    assert [run["id"] for run in found["runs"]] == [run["id"] for run in planned["runs"]]
    results = [json.loads((Path(run["path"]) / "result.json").read_text()) for run in found["runs"]]
    assert [result["model"]["head"] for result in results] == ["classifier", "words", "words"]
    settings = (Path(found["runs"][1]["path"]) / "settings.yaml").read_text()
    assert f"teacher: {found['runs'][0]['path']}" in settings and "teacher_kl: forward" in settings
    assert found["changed"] == {"model": str(pico("bert-mlm")), "max_steps": 4}
    figures = {(figure["row"], figure["metric"]): figure for figure in found["figures"]}
    for metric, theirs, of_teacher in (("accuracy_matched", 0.837, 0.845), ("accuracy_mismatched", 0.836, 0.849)):
        ours = [result["metrics"][metric] for result in results]
        assert figures["mnli teacher", metric]["difference"] == pytest.approx(ours[0] - of_teacher)
        row = figures["mnli-kd-10", metric]
        assert (row["seeds"], row["values"]) == ([0, 1], ours[1:])
        assert row["difference"] == pytest.approx((ours[1] + ours[2]) / 2 - theirs)

    # As after an interruption: what is finished stays, what isn't is made.
    lost = Path(found["runs"][2]["path"])
    before = listing(Path(found["runs"][1]["path"]))
    mask = (lost / "mask.safetensors").read_bytes()
    shutil.rmtree(lost)
    again = smp(*command).ok()
    assert [line.split()[0] for line in again.err.splitlines()] == [lost.name, lost.name]
    assert (lost / "mask.safetensors").read_bytes() == mask
    assert listing(Path(found["runs"][1]["path"])) == before
    assert "no reproduction" in again.out and "max_steps 4" in again.out
    quiet = smp(*command, "--quiet").ok()
    assert quiet.err == "" and quiet.out == again.out


def test_without_a_name_the_tables_are_listed(smp: Smp) -> None:
    listed = {entry["name"] for entry in smp("reproduce", "--json").json}
    assert {"kd", "no-kd", "glue-80", "mnli-10", "mnli-kd-10", "qqp-3", "squad-kd"} <= listed
    assert "mnli-kd-10" in smp("reproduce").ok().out


def test_a_failed_run_is_said_and_the_rest_is_shown(smp: Smp, mnli: Path, tmp_path: Path) -> None:
    # A model that is nowhere: no hub answers here.
    flags = [
        "--model",
        "nobody/nothing",
        "--data-dir",
        mnli,
        "--max-steps",
        2,
        "--seeds",
        0,
        "--output",
        tmp_path / "out",
    ]
    done = smp("reproduce", "mnli-kd-3", *flags, "--quiet")
    assert done.code == 3
    teacher, row = done.err.splitlines()
    assert teacher.startswith("error: mnli-dense-") and "its teacher" in row
    assert "81.8" in done.out and "+" not in done.out
