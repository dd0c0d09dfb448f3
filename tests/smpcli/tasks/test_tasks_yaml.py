"""Task YAML files: the built-in ones, one's own, and what is said of a wrong one."""

# Rows may be questions, says their type; here they have labels.
# mypy: disable-error-code="union-attr"
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from smpcli.errors import UserError
from smpcli.tasks.data import dry_run_sizes, load_data
from smpcli.tasks.task import Source, Task, find_task, list_tasks

OWN = {
    "title": "T",
    "kind": "classification",
    "text": "text",
    "label": "label",
    "labels": ["a", "b"],
    "metrics": ["accuracy"],
    "source": {"hub": "someone/something"},
}


def write(folder: Path, **changes: object) -> Path:
    """A task YAML: `OWN` with changes; None leaves a key out."""
    path = folder / "my.yaml"
    values = {key: value for key, value in (OWN | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


def test_built_in_tasks() -> None:
    tasks = {task.name: task for task in list_tasks()}
    assert sorted(tasks) == sorted("cola mnli movies mrpc qnli qqp rte squad sst2 stsb wnli".split())
    # GLUE's own metrics: https://gluebenchmark.com/tasks
    assert {name: task.metrics for name, task in tasks.items()} == {
        "cola": ["matthews"],
        "mnli": ["accuracy"],
        "movies": ["accuracy"],
        "mrpc": ["accuracy", "f1"],
        "qnli": ["accuracy"],
        "qqp": ["accuracy", "f1"],
        "rte": ["accuracy"],
        "squad": ["f1", "exact_match"],
        "sst2": ["accuracy"],
        "stsb": ["pearson", "spearman"],
        "wnli": ["accuracy"],
    }
    # ids as on the hub, words as the paper's section 4.2 has them
    by_id = {name: [task.words[label] for label in task.labels] for name, task in tasks.items() if task.labels}
    assert by_id == {
        "cola": ["incorrect", "correct"],
        "mnli": ["Yes", "Maybe", "No"],
        "movies": ["terrible", "great"],
        "mrpc": ["No", "Yes"],
        "qnli": ["Yes", "No"],
        "qqp": ["No", "Yes"],
        "rte": ["Yes", "No"],
        "sst2": ["terrible", "great"],
        "wnli": ["No", "Yes"],
    }
    assert tasks["mnli"].labels == ["entailment", "neutral", "contradiction"]
    assert tasks["squad"].words == {"start": "Yes", "end": "No"}
    assert (tasks["squad"].max_length, tasks["squad"].stride) == (384, 128)
    assert tasks["stsb"].words == {"score": "Yes"}
    assert tasks["rte"].labels == ["entailment", "not_entailment"]


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from smpcli.tasks.task import list_tasks; list_tasks();"
        "heavy = ('torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'sklearn');"
        "print([module for module in heavy if module in sys.modules])"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert done.stdout.strip() == "[]"


def test_a_dry_run_knows_the_sizes_without_data() -> None:
    assert {task.name: dry_run_sizes(task, None) for task in list_tasks()} == {
        "cola": (8551, 1043),
        "mnli": (392702, 9815 + 9832),
        "movies": (9039, 1031),
        "mrpc": (3668, 408),
        "qnli": (104743, 5463),
        "qqp": (363846, 40430),
        "rte": (2490, 277),
        "squad": (87599, 10570),
        "sst2": (67349, 872),
        "stsb": (5749, 1500),
        "wnli": (635, 71),
    }


def test_own_yaml_with_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("text,label\nx,b\ny,a\nz,b\n")
    (tmp_path / "d.csv").write_text("text,label\nw,a\n")
    path = write(tmp_path, labels=None, source={"file": "t.csv", "dev_file": "d.csv"}, words={"a": "A", "b": "B"})
    monkeypatch.chdir("/")
    task = find_task(str(path))
    assert (task.name, task.labels) == ("my", ["a", "b"])
    data = load_data(task, None)
    assert (data.train.labels, data.dev["dev"].texts) == ([1, 0, 1], ["w"])


def test_own_yaml_with_a_folder_of_two_dev_sets(tmp_path: Path) -> None:
    for name, rows in {"train": "x\tp\ny\tq\n", "dev1": "z\tq\n", "dev2": "w\tp\nv\tq\n"}.items():
        (tmp_path / f"{name}.tsv").write_text(rows)
    source = {
        "folder": tmp_path.name,
        "dev_files": {"near": "dev1.tsv", "far": "dev2.tsv"},
        "header": ["text", "label"],
    }
    task = find_task(str(write(tmp_path, label_values={"p": "a", "q": "b"}, source=source)))
    data = load_data(task, tmp_path.parent)
    assert {name: (examples.texts, examples.labels) for name, examples in data.dev.items()} == {
        "near": (["z"], [1]),
        "far": (["w", "v"], [0, 1]),
    }
    assert dry_run_sizes(task, tmp_path.parent) == (2, 3)
    assert dry_run_sizes(task, None) == (None, None)
    with pytest.raises(UserError, match=r"has no data here; name a folder .* with --data-dir or SMP_DATA_DIR"):
        load_data(task, None)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"lables": []}, "unknown key in my.yaml: 'lables'; did you mean 'label"),
        ({"title": None}, "my.yaml: the key title is missing"),
        ({"kind": "ranking"}, "my.yaml: kind: "),
        ({"labels": ["a"]}, "labels must name at least two classes"),
        ({"labels": ["a", "a"]}, "each once"),
        ({"labels": None}, "labels must name at least two classes"),
        ({"labels": [True, False]}, "my.yaml: labels.0: YAML takes Yes, No"),
        ({"words": {"a": True, "b": "no"}}, "my.yaml: words.a: YAML takes Yes, No"),
        ({"label_values": {0: "a", 1: "b"}}, "my.yaml: label_values.0: YAML takes Yes, No"),
        ({"words": {"a": "x"}}, "words must have one word for each of ['a', 'b']"),
        ({"words": {"a": "x", "b": "x"}}, "two labels have the same word"),
        ({"label_values": {"0": "c"}}, "'c' is not one of labels"),
        ({"metrics": []}, "my.yaml: metrics: "),
        ({"metrics": ["bleu"]}, "'bleu' isn't one for classification; known: accuracy"),
        ({"metrics": ["f1"], "labels": ["a", "b", "c"]}, "take macro_f1"),
        ({"kind": "regression"}, "leave out labels"),
        ({"kind": "regression", "labels": None, "metrics": ["accuracy"]}, "'accuracy' isn't one for regression"),
        ({"pair": "text"}, "must be different columns"),
        ({"max_length": 0}, "my.yaml: max_length: "),
        ({"source": None}, "my.yaml: the key source is missing"),
        ({"source": {}}, "my.yaml: source: name one place"),
        ({"source": {"hub": "owner/x", "file": "y.csv"}}, "name one place"),
        ({"source": {"hub": "owner/x", "fodler": "y"}}, "'source.fodler'; did you mean 'folder'"),
        ({"source": {"folder": "x", "config": "y"}}, "config belongs to hub"),
        ({"source": {"hub": "owner/x", "folder": "y", "dev_files": {"other": "z.tsv"}}}, "name the same dev sets"),
        ({"source": {"file": ["a.csv"]}}, "my.yaml: source.file: "),
        ({"source": "x.csv"}, "my.yaml: source: "),
        ({"source": {"hub": "owner/x", "score_range": [0, 5]}}, "is for regression"),
    ],
)
def test_a_wrong_yaml_is_named_with_the_key(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        find_task(str(path))
    message = str(error.value).replace(f"{tmp_path}/", "")
    assert said in message
    assert "\n" not in message


def test_a_file_that_a_yaml_names_in_vain(tmp_path: Path) -> None:
    task = find_task(str(write(tmp_path, source={"file": "none.csv"})))
    for call in (load_data, dry_run_sizes):
        with pytest.raises(UserError, match=r"there is no file .*none\.csv"):
            call(task, None)


def test_broken_yaml_is_named_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("title: T\nkind: [\n")
    with pytest.raises(UserError, match=r"my\.yaml, line"):
        find_task(str(path))


@pytest.mark.parametrize(
    "name, said",
    [
        ("sst3", "unknown task 'sst3'; did you mean 'sst2'? (`smp tasks` lists them"),
        ("none.csv", "there is no file"),
        ("none.yaml", "there is no file"),
        ("data.json", "there is no file"),
        (".", "--task takes a task's name or a file"),
        ("", "--task takes a task's name or a file"),
    ],
)
def test_no_such_task(name: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        find_task(name)
    assert said in str(error.value)


def test_columns_are_for_own_files_only() -> None:
    with pytest.raises(UserError, match="task 'sst2' has its own columns"):
        find_task("sst2", text="sentence")


def test_a_task_survives_a_round_trip_through_yaml() -> None:
    task = find_task("mrpc")
    again = Task.model_validate(yaml.safe_load(yaml.safe_dump(task.model_dump(mode="json"))))
    assert again == task


def test_every_key_is_documented() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
    missing = [key for model in (Task, Source) for key in model.model_fields if f"`{key}`" not in text]
    assert not missing
