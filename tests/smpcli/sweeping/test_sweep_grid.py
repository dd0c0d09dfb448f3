"""A sweep file as a list of runs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from smpcli import UserError
from smpcli.settings import RunSettings, resolve
from smpcli.sweeping import grid
from smpcli.sweeping.grid import Job, expand, list_sweeps, read_sweep, sweep_names
from smpcli.training.run import run_id

SHORT = {"max_steps": 5, "precision": "fp32"}


def jobs(folder: Path, **content: Any) -> list[Job]:
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return expand(read_sweep(str(file)), folder / "results")


def what(job: Job) -> tuple[Any, ...]:
    return (job.settings.task.name, job.settings.pruner.name, job.settings.run.sparsity, job.settings.run.seed)


def test_every_combination_once_and_one_dense_run_for_all_sparsities(tmp_path: Path) -> None:
    found = jobs(
        tmp_path,
        methods=["dense", "smp", "magnitude"],
        sparsities=[0.5, 0.9],
        seeds=[3, 1],
        tasks=["sst2", "rte"],
        settings=SHORT,
    )
    expected = {
        (task, method, sparsity, seed)
        for task, method, sparsity, seed in itertools.product(
            ("sst2", "rte"), ("smp", "magnitude"), (0.5, 0.9), (3, 1)
        )
    } | {(task, "dense", 0.0, seed) for task, seed in itertools.product(("sst2", "rte"), (3, 1))}
    assert {what(job) for job in found} == expected and len(found) == len(expected)
    # A whole table of the first seed comes before any of the second.
    assert [job.settings.run.seed for job in found] == [3] * 10 + [1] * 10


def test_a_job_is_the_run_that_prune_would_make(tmp_path: Path) -> None:
    (found,) = jobs(tmp_path, methods=["smp"], tasks=["rte"], sparsities=[0.7], seeds=[4], settings=SHORT)
    flags = {"task": "rte", "method": "smp", "sparsity": 0.7, "seed": 4, **SHORT}
    assert found.id == run_id(resolve(flags=flags))


def test_a_list_is_an_axis_and_a_method_without_the_setting_has_one_run(tmp_path: Path) -> None:
    found = jobs(
        tmp_path,
        methods=["dense", {"method": "smp", "init": ["zero", "activation"]}, "smp"],
        tasks=[{"task": "rte", "batch_size": [8, 16]}],
        settings={**SHORT, "penalty": [0, 400], "max_length": 64},
    )
    dense = [job.settings for job in found if job.settings.pruner.name == "dense"]
    assert sorted(settings.run.batch_size for settings in dense) == [8, 16]
    smp = {
        (job.settings.run.batch_size, job.settings.method.penalty, job.settings.method.init)
        for job in found
        if job.settings.pruner.name == "smp"
    }
    # The plain entry's default is "activation": no third run.
    assert smp == set(itertools.product((8, 16), (0, 400), ("zero", "activation")))
    assert len(found) == 2 + 8
    assert {job.settings.max_length for job in found} == {64}


def test_nearer_settings_win_and_the_length_is_one_setting(tmp_path: Path) -> None:
    found = jobs(
        tmp_path,
        recipe="quick",
        methods=["magnitude", {"method": "smp", "evaluations": 7}],
        tasks=["rte", {"task": "mrpc", "epochs": 2}],
        settings={"precision": "fp32", "evaluations": 3},
    )
    seen = {
        (job.settings.pruner.name, job.settings.task.name): (
            job.settings.run.max_steps,
            job.settings.run.epochs,
            job.settings.run.evaluations,
        )
        for job in found
    }
    quick = resolve(recipe="quick", flags={"task": "rte"}).run.max_steps
    assert seen == {
        ("magnitude", "rte"): (quick, None, 3),
        ("magnitude", "mrpc"): (None, 2, 3),
        ("smp", "rte"): (quick, None, 7),
        ("smp", "mrpc"): (None, 2, 7),
    }


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({"methods": ["smp"], "tasks": ["rte"], "settings": {"epochs": [1, 2]}}))
    found = expand(read_sweep(str(file)), tmp_path, {"max_steps": 9, "precision": "fp32"})
    assert [(job.settings.run.max_steps, job.settings.run.epochs) for job in found] == [(9, None)]


def test_a_teacher_comes_first_and_its_folder_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "teacher" not in RunSettings.model_fields:
        with pytest.raises(UserError, match="teacher"):
            jobs(tmp_path, methods=["smp"], tasks=["rte"], teacher="dense", settings=SHORT)
        return
    found = jobs(
        tmp_path,
        methods=["smp", {"method": "dense", "weights_lr": 2e-4}],
        tasks=["rte"],
        seeds=[0, 1],
        sparsities=[0.5, 0.9],
        settings=SHORT,
        teacher="dense",
    )
    assert [job.settings.pruner.name for job in found] == ["dense", "smp", "smp"] * 2
    for group in (found[:3], found[3:]):
        dense, *taught = group
        assert dense.teacher is None and dense.settings.run.teacher is None
        assert dense.settings.method.weights_lr == 2e-4
        for job in taught:
            assert job.teacher == dense.id and job.settings.run.seed == dense.settings.run.seed
            assert job.settings.run.teacher == str(tmp_path / "results" / dense.id)
    assert len({job.id for job in found}) == 6


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"tasks": ["rte"]}, "methods"),
        ({"methods": [], "tasks": ["rte"]}, "methods"),
        ({"methods": ["smp"], "tasks": ["rte"], "sparsity": [0.5]}, "sparsities"),
        ({"methods": ["smpp"], "tasks": ["rte"]}, "did you mean 'smp'"),
        ({"methods": ["smp"], "tasks": ["rtee"]}, "did you mean 'rte'"),
        ({"methods": ["smp"], "tasks": ["rte"], "sparsities": [1.0]}, "sparsities"),
        ({"methods": ["smp"], "tasks": ["rte"], "seeds": [True]}, "seeds"),
        ({"methods": ["smp"], "tasks": ["rte"], "seeds": 3}, r"seeds: a list is needed, such as \[3\]$"),
        ({"methods": ["smp"], "tasks": ["rte"], "sparsities": [1.5]}, r"sparsities\.0: it must be less than 1$"),
        (
            {"methods": ["smp"], "tasks": ["rte"], "settings": ["penalty"]},
            r"settings: settings by name .* \{batch_size",
        ),
        ({"methods": ["smp"], "tasks": ["rte"], "settings": {"seed": 1}}, "seeds"),
        ({"methods": [{"method": "smp", "sparsity": 0.5}], "tasks": ["rte"]}, "sparsities"),
        ({"methods": [{"name": "smp"}], "tasks": ["rte"]}, "method"),
        ({"methods": ["smp"], "tasks": ["rte"], "settings": {"penalti": 1}}, "penalty"),
        ({"methods": ["dense"], "tasks": ["rte"], "settings": {"penalty": 1}}, "penalty"),
        ({"methods": ["smp"], "tasks": ["rte"], "settings": {"penalty": []}}, "empty"),
        ({"methods": ["smp"], "tasks": ["rte"], "settings": {"batch_size": 0}}, "batch_size"),
        ({"methods": ["smp"], "tasks": ["rte"], "recipe": "quik"}, "did you mean 'quick'"),
        ({"methods": ["smp"], "tasks": ["rte"], "settings": {"scores_lr": [0.1] * 1, "seed": [1, 2]}}, "seeds"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(content: dict[str, Any], says: str, tmp_path: Path) -> None:
    settings = content.pop("settings", {})
    if isinstance(settings, dict):
        settings = {"precision": "fp32"} | settings
    with pytest.raises(UserError, match=says) as error:
        jobs(tmp_path, **content, settings=settings)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300


def test_a_grid_that_grew_beyond_all_bounds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "MOST_RUNS", 3)
    content = {"methods": ["smp"], "tasks": ["rte"], "settings": SHORT}
    assert len(jobs(tmp_path, **content, seeds=[0, 1, 2])) == 3
    with pytest.raises(UserError, match="more than 3 runs"):
        jobs(tmp_path, **content, seeds=[0, 1, 2, 3])


def test_the_file_in_the_docs_is_a_sweep(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    content = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    if "teacher" not in RunSettings.model_fields:
        del content["teacher"]
    content["settings"]["precision"] = "fp32"
    found = jobs(tmp_path, **content)
    # A dense run for each task and seed; magnitude's at two sparsities; two kinds of smp with two penalties each.
    assert len(found) == 2 * 3 * (1 + 2 + 2 * 2 * 2)


def test_an_unknown_sweep_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'quick'"):
        read_sweep("quik")


@pytest.mark.parametrize("name", sweep_names())
def test_the_sweeps_that_come_with_smp_resolve(name: str, tmp_path: Path) -> None:
    found = expand(read_sweep(name), tmp_path, {"precision": "fp32"})
    assert len(found) > 1
    assert any(job.settings.pruner.name == "dense" for job in found)
    assert next(entry["description"] for entry in list_sweeps() if entry["name"] == name)
