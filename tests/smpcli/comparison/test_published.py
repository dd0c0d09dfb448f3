"""Published figures, and the recipes that they were made with as far as the paper tells."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smpcli import plan
from smpcli.comparison.published import published
from smpcli.errors import UserError
from smpcli.settings import read_recipe, recipe_names, resolve

# As docs/paper.md and the paper's tables have them: (task, method, sparsity, KD, metric) -> per cent.
KNOWN = {
    ("mnli", "smp", 0.5, True, "accuracy_matched"): 85.7,
    ("qqp", "smp", 0.5, True, "accuracy"): 91.7,
    ("squad", "smp", 0.5, True, "f1"): 89.8,
    ("mnli", "smp", 0.97, True, "accuracy_matched"): 81.8,
    ("squad", "smp", 0.97, False, "f1"): 81.4,
    ("qqp", "smp", 0.9, False, "accuracy"): 90.8,
    ("mnli", "soft-movement", 0.9, True, "accuracy_matched"): 81.2,
    ("squad", "movement", 0.97, True, "f1"): 78.0,
    ("qqp", "magnitude", 0.9, True, "accuracy"): 79.8,
    ("cola", "smp", 0.2, False, "matthews"): 61.5,
    ("stsb", "smp", 0.2, False, "pearson"): 89.6,
}


@pytest.mark.parametrize("key", KNOWN, ids=str)
def test_figures_are_those_of_the_tables(key: tuple[str, str, float, bool, str]) -> None:
    task, method, sparsity, kd, metric = key
    rows = [row for row in published(task, method, sparsity, kd=kd) if row.metric == metric]
    values = {row.name: row.value for row in rows}
    # In the unit of our results.
    assert values[{"smp": "SMP-S"}.get(method, rows[0].name)] == pytest.approx(KNOWN[key] / 100, abs=1e-9)
    assert all(row.model == "bert-base-uncased" and "2210.06210" in row.source for row in rows)


# Of oBERT's tables (2203.07259), PLATON's (2206.12562): (method, task, sparsity, KD, epochs, name) -> per cent.
OTHERS = {
    ("obert", "mnli", 0.8, True, 30, "oBERT"): "84.3",
    ("obert", "qqp", 0.9, True, 30, "oBERT"): "91.35",
    ("obert", "squad", 0.97, True, 30, "oBERT"): "85.98",
    ("obert", "mnli", 0.97, True, 10, "oBERT"): "81.0",
    ("obert", "squad", 0.9, True, 8, "oBERT upstream"): "88.49",
    ("obert", "sst2", 0.9, False, None, "oBERT upstream"): "92.0",
    ("platon", "sst2", 0.9, False, None, "PLATON"): "90.5",
}


@pytest.mark.parametrize("key", OTHERS, ids=str)
def test_other_papers_figures_say_their_epochs_and_source(key: tuple[str, str, float, bool, int | None, str]) -> None:
    method, task, sparsity, kd, epochs, name = key
    (row,) = [row for row in published(task, method, sparsity, kd=kd) if (row.epochs, row.name) == (epochs, name)]
    assert row.per_cent == OTHERS[key] and row.model == "bert-base-uncased"
    assert ("2203.07259" if method == "obert" else "2206.12562") in row.source
    assert (" + KD" in row.label, f"{epochs} epochs" in row.label) == (kd, epochs is not None)


def test_small_models_are_no_method_s_rows() -> None:
    models = published(method="model")
    assert {(row.name, row.task): row.per_cent for row in models} == {
        ("MiniLM-L6-H384", "sst2"): "91.3", ("MiniLM-L6-H384", "mnli"): "82.8",
        ("XtremeDistil-l6-h384", "sst2"): "92.3", ("XtremeDistil-l6-h384", "mnli"): "85.4",
        ("XtremeDistil-l6-h256", "sst2"): "91.2", ("XtremeDistil-l6-h256", "mnli"): "83.9",
        ("Ettin 17M", "mnli"): "79.5", ("Ettin 32M", "mnli"): "83.4", ("Ettin 68M", "mnli"): "87.0",
    }  # fmt: skip
    assert {(row.sparsity, row.remaining, row.kd) for row in models} == {(None, None, False)}
    assert not any(row in models for row in published(sparsity=0.9))


def test_what_is_asked_for_is_what_comes() -> None:
    assert published("movies") == [] == published("sst2", sparsity=0.97)
    assert {row.kd for row in published("mnli", "smp", 0.97)} == {True, False}
    # 1 - 0.03 isn't 0.97 in binary.
    assert published("mnli", sparsity=1 - 0.03) == published("mnli", sparsity=0.97) != []
    assert [row.value for row in published("glue", "smp", model="roberta-base")] == [0.869]
    rows = published()
    assert len({(r.task, r.model, r.name, r.sparsity, r.kd, r.epochs, r.metric) for r in rows}) == len(rows) > 50
    assert all(-1 <= row.value <= 1 and 0 <= (row.sparsity or 0) < 1 for row in rows)


# -- recipes ---------------------------------------------------------------------------------------------

ROWS = [name for name in recipe_names() if name.startswith("paper/")]


def test_every_row_has_its_file() -> None:
    wanted = [f"{task}-kd-{left}" for task in ("mnli", "qqp", "squad") for left in (50, 10, 3)]
    wanted += [f"{task}-{left}" for task in ("mnli", "qqp", "squad") for left in (10, 3)]
    glue = "mnli qnli sst2 qqp mrpc cola stsb rte".split()
    wanted += [f"{model}{task}-80" for model in ("", "roberta-") for task in glue]
    # Settings that the release has, without a row in the tables.
    wanted += ["mnli-50", "squad-50"]
    wanted += ["mnli", "mnli-kd", "qqp", "qqp-kd", "squad", "squad-kd", "glue-80"]
    assert sorted(ROWS) == sorted(f"paper/{name}" for name in wanted)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_s_settings_are_those_of_its_name(name: str) -> None:
    recipe = read_recipe(name)
    words = name.removeprefix("paper/").split("-")
    assert recipe["method"] == "smp" and recipe["head"] == "words" and recipe["init"] == "zero"
    assert recipe["factored"] is False and recipe["penalty"] == 400 and recipe["scores_lr"] == 0.02
    assert recipe["model"] == ("roberta-base" if words[0] == "roberta" else "bert-base-uncased")
    assert recipe.get("schedule", "cubic") == ("linear" if words[0] == "roberta" else "cubic")
    # A teacher that a person must name: never one that is left out in silence.
    assert (recipe.get("teacher") == "???") == ("kd" in words)
    if words[-1].isdigit():
        assert recipe["sparsity"] == pytest.approx(1 - int(words[-1]) / 100)
        if name != "paper/glue-80":
            task = words[1] if words[0] == "roberta" else words[0]
            assert recipe["task"] == task
            found = published("glue" if words[0] == "roberta" else task, "smp", recipe["sparsity"], kd="kd" in words)
            assert bool(found) == (name not in ("paper/mnli-50", "paper/squad-50")), name


# Rows of the training data, epochs, batch, steps at which 80 % is reached: 3,500 of ceil(rows / batch) * epochs.
EIGHTY = {
    "mnli": (392_702, 12, 64),
    "qqp": (363_846, 12, 64),
    "qnli": (104_743, 12, 64),
    "sst2": (67_349, 12, 64),
    "mrpc": (3_668, 60, 32),
    "cola": (8_551, 60, 32),
    "stsb": (5_749, 60, 32),
    "rte": (2_490, 100, 32),
}


@pytest.mark.parametrize("task", EIGHTY)
def test_the_ramp_of_80_per_cent_ends_at_step_3500(task: str) -> None:
    rows, epochs, batch = EIGHTY[task]
    recipe = read_recipe(f"paper/{task}-80")
    steps = math.ceil(rows / batch) * epochs
    assert (recipe["epochs"], recipe["batch_size"], recipe["temperature"]) == (epochs, batch, 4)
    assert recipe["ramp_end"] * steps == pytest.approx(3500, abs=5)


def test_settings_that_differ_by_row() -> None:
    resolved = {name: resolve(name).method for name in ROWS if name != "paper/glue-80"}
    # SMP-S's temperature: 4 from 70 % remaining up; at 50 % without a teacher 3 (MNLI) and 4 (SQuAD); else 1.
    assert {name for name, method in resolved.items() if method.temperature == 4} == {
        *(name for name in resolved if name.endswith("-80")),
        "paper/squad-50",
    }
    assert {name for name, method in resolved.items() if method.temperature == 3} == {"paper/mnli-50"}
    assert {method.temperature for method in resolved.values()} == {1, 3, 4}
    for name, method in resolved.items():
        task, shape = name.removeprefix("paper/").split("-")[0], (method.penalty_start, method.penalty_end)
        if name.endswith(("squad-3", "squad-kd-3")):
            # Step 27,660 of 55,340 is where the penalty stays.
            assert (method.ramp_end, *shape) == (0.41, 0, 0.5) and abs(0.5 - 27_660 / 55_340) < 1e-3
            continue
        assert shape == (0, 1), name
        if name == "paper/squad-50":
            # Half of the 20 epochs' steps.
            assert method.ramp_end * 55_340 / 2 == pytest.approx(5000, abs=1)
        elif not name.endswith("-80"):
            assert method.ramp_end == {"mnli": 0.59, "qqp": 0.56, "squad": 0.82}[task], name
    squad = read_recipe("paper/squad")
    assert (squad["batch_size"], squad["max_length"]) == (32, 384)
    assert [read_recipe(f"paper/squad-{row}")["epochs"] for row in ("50", "10", "3", "kd-10", "kd-3")] == [
        *(10, 10, 20),
        *(10, 20),
    ]


def test_paper_recipes_compute_as_the_releases() -> None:
    methods = "smp movement soft-movement magnitude snip-momentum platon obert l0".split()
    for name in [*ROWS, *(f"{method}-paper" for method in methods)]:
        run = resolve(name, flags={"task": "stsb"}).run
        # STS-B's own defaults are other ones.
        assert (run.precision, run.bucket_window, run.micro_batches, run.dropout) == ("fp32", 1, 1, 0.1), name
        smp = name.startswith(("paper/", "smp"))
        assert run.select == ("best" if smp else "last"), name
        assert run.head == ("words" if name in ROWS else "auto" if smp else "classifier"), name
        if run.teacher:
            assert (run.teacher_kl, run.teacher_temperature, run.teacher_weight) == ("forward", 2, 0.5), name


def test_dev_is_asked_as_often_as_in_the_release() -> None:
    """Every 1,000 steps; MRPC, CoLA, STS-B and RTE once an epoch."""
    steps = {task: math.ceil(rows / batch) * epochs for task, (rows, epochs, batch) in EIGHTY.items()}
    for name in set(ROWS) - {"paper/glue-80"}:
        recipe = read_recipe(name)
        task = recipe["task"]
        if task in ("mrpc", "cola", "stsb", "rte"):
            assert recipe["evaluations"] == recipe["epochs"], name
        else:
            total = {**steps, "squad": 55_340 * recipe["epochs"] / 20}[task]
            assert abs(total / recipe["evaluations"] - 1000) < 30, name


# lambda at tenths of the run, from the formula: x = (t - start) / (end - start) between, then final (1 - (1 - x)^3).
@pytest.mark.parametrize(
    ("recipe", "start", "end", "final"),
    [
        ("smp-paper", 0, 1, 400),
        ("paper/squad-3", 0, 0.5, 400),
        ("paper/squad-kd-3", 0, 0.5, 400),
        ("soft-movement-paper", 0.1, 0.8, 400),
        ("l0-paper", 0, 0, 125),
        ("movement-paper", 0, 1, 0),
    ],
)
def test_the_penalty_s_weight_in_each_paper_s_form(recipe: str, start: float, end: float, final: float) -> None:
    settings = resolve(recipe, flags={"task": "squad"})
    pruner = settings.pruner(settings.method)
    for tenth in range(11):
        t = tenth / 10
        x = 1.0 if t >= end else max(0.0, (t - start) / (end - start))
        assert pruner.penalty_weight(t) == pytest.approx(final * (3 * x - 3 * x**2 + x**3), abs=1e-9)


@pytest.fixture
def mnli() -> str:
    """MNLI itself: nothing is downloaded for a dry run."""
    return "mnli"


@pytest.fixture
def own_mnli(tmp_path: Path) -> Path:
    """A person's own task that has MNLI's name, sizes, labels and words."""
    path = tmp_path / "mnli.yaml"
    path.write_text(
        "title: MNLI\nkind: classification\ntext: premise\npair: hypothesis\nlabel: label\n"
        "labels: [entailment, neutral, contradiction]\n"
        'words: {entailment: "Yes", neutral: Maybe, contradiction: "No"}\n'
        "metrics: [accuracy]\ntrain_rows: 392702\ndev_rows: 19647\nsource: {hub: nyu-mll/glue, config: mnli}\n"
    )
    return path


def test_a_dry_run_of_a_row_shows_steps_schedule_and_the_figure(mnli: str) -> None:
    found = plan(mnli, recipe="paper/mnli-kd", sparsity=0.97)
    # 12 epochs of ceil(392,702 / 64) steps.
    assert found.steps == 73_632 == 12 * math.ceil(392_702 / 64)
    assert found.schedule is not None and len(found.schedule) == 11
    for tenth, (step, density, penalty) in enumerate(found.schedule):
        t = tenth / 10
        assert step == 73_632 * tenth // 10
        assert density == pytest.approx(0.03 + 0.97 * (1 - min(1, t / 0.59)) ** 3)
        assert penalty == pytest.approx(400 * (1 - (1 - t) ** 3))
    figures = {(row.name, row.kd, row.metric): row.value for row in found.published}
    assert figures["SMP-S", True, "accuracy_matched"] == 0.818
    assert figures["Soft movement", True, "accuracy_matched"] == 0.795
    assert figures["BERT", False, "accuracy_matched"] == 0.845
    assert not any(row.method == "smp" and not row.kd for row in found.published)
    without = plan(mnli, recipe="paper/mnli", sparsity=0.97).published
    assert {row.name for row in without} == {"SMP-S", "SMP-L", "SMP-L without penalty", "BERT"}


def test_nothing_published_is_nothing_shown(mnli: str, sentiment: Any, pico: Any) -> None:
    assert plan(mnli, recipe="paper/mnli", sparsity=0.6).published == published("mnli", "dense")
    own = plan(str(sentiment.csv), model=str(pico("bert")))
    assert own.published == [] and own.schedule is not None
    assert plan(str(sentiment.csv), method="dense", model=str(pico("bert"))).schedule is None


def test_a_namesake_of_a_task_or_model_has_no_published_figures(
    own_mnli: Path, pico: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan("mnli", recipe="paper/mnli", sparsity=0.97).published
    assert plan(str(own_mnli), recipe="paper/mnli", sparsity=0.97).published == []
    # A folder in which something else lies than what was published for.
    shutil.copytree(pico("bert-mlm"), tmp_path / "bert-base-uncased")
    monkeypatch.chdir(tmp_path)
    words = plan("mnli", recipe="paper/mnli", sparsity=0.97, max_length=24)
    assert words.settings["model"] == str(tmp_path / "bert-base-uncased") and words.published == []


def test_a_recipe_with_a_teacher_to_name_asks_for_it(sentiment: Any, pico: Any, tmp_path: Path) -> None:
    from smpcli import prune

    with pytest.raises(UserError, match=r"smp finetune --task .* add --set teacher="):
        prune(str(sentiment.words), recipe="paper/mnli-kd", model=str(pico("bert-mlm")), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- extends ---------------------------------------------------------------------------------------------


def test_a_recipe_takes_over_what_another_says(tmp_path: Path) -> None:
    base, own = tmp_path / "base.yaml", tmp_path / "own.yaml"
    base.write_text("sparsity: 0.5\nepochs: 3\npenalty: 7\n")
    own.write_text(f"description: mine\nextends: {json.dumps(str(base))}\nsparsity: 0.9\nmax_steps: 10\n")
    # Steps instead of epochs, as on the command line.
    assert read_recipe(str(own)) == {"sparsity": 0.9, "max_steps": 10, "penalty": 7}


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(f"extends: {two}\n")
    two.write_text(f"extends: {one}\n")
    with pytest.raises(UserError, match="extends itself"):
        read_recipe(str(one))
    one.write_text("extends: smp-papr\n")
    with pytest.raises(UserError, match="did you mean 'smp-paper'"):
        read_recipe(str(one))


@given(st.sampled_from(ROWS), st.integers(0, 99))
@settings(max_examples=20)
def test_any_sparsity_goes_with_any_row(name: str, percent: int) -> None:
    assert resolve(name, flags={"task": "sst2", "sparsity": percent / 100}).run.sparsity == percent / 100
