"""The hub: real `datasets` objects, with only the download replaced."""

# Rows may be questions, says their type; here they have labels.
# mypy: disable-error-code="union-attr"
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from smpcli.errors import UserError
from smpcli.tasks.data import dry_run_sizes, load_data
from smpcli.tasks.task import find_task

NAMES = {
    "sst2": ["negative", "positive"],
    "rte": ["entailment", "not_entailment"],
    "mrpc": ["not_equivalent", "equivalent"],
    "cola": ["unacceptable", "acceptable"],
}


def split(columns: dict[str, list[Any]], label: Any) -> datasets.Dataset:
    features = {name: datasets.Value("string") for name in columns} | {"label": label, "idx": datasets.Value("int32")}
    return datasets.Dataset.from_dict(
        columns | {"idx": list(range(len(columns["label"])))}, features=datasets.Features(features)
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], datasets.DatasetDict]:
    """What `load_dataset` finds, by data set and configuration."""
    found: dict[tuple[str, str], datasets.DatasetDict] = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config=None: found[name, config])
    return found


def test_class_ids_arrive_and_the_test_split_is_left_alone(hub: dict[Any, Any]) -> None:
    label = datasets.ClassLabel(names=NAMES["sst2"])
    hub["nyu-mll/glue", "sst2"] = datasets.DatasetDict(
        train=split({"sentence": ['a "fine film ', "dull", "so so"], "label": [1, 0, 0]}, label),
        validation=split({"sentence": ["lovely"], "label": [1]}, label),
        test=split({"sentence": ["who knows"], "label": [-1]}, label),
    )
    data = load_data(find_task("sst2"), None)
    assert (data.train.texts, data.train.labels) == (['a "fine film', "dull", "so so"], [1, 0, 0])
    assert {name: examples.labels for name, examples in data.dev.items()} == {"dev": [1]}
    assert (data.labels, data.origin) == (NAMES["sst2"], "hub nyu-mll/glue sst2")


def test_hub_and_folder_give_the_same_digest(hub: dict[Any, Any], glue: Path) -> None:
    # the hub keeps STS-B's scores as 32-bit floats, where 3.8 is 3.799999952316284
    score = datasets.Value("float32")
    hub["nyu-mll/glue", "stsb"] = datasets.DatasetDict(
        train=split({"sentence1": ["A", "C"], "sentence2": ["B", "D"], "label": [5.0, 3.8]}, score),
        validation=split({"sentence1": ["A"], "sentence2": ["C"], "label": [0.0]}, score),
    )
    rte = datasets.ClassLabel(names=NAMES["rte"])
    hub["nyu-mll/glue", "rte"] = datasets.DatasetDict(
        train=split({"sentence1": ["A b.", "C."], "sentence2": ["B.", "D."], "label": [0, 1]}, rte),
        validation=split({"sentence1": ["E."], "sentence2": ["F."], "label": [1]}, rte),
    )
    for name in ("stsb", "rte"):
        assert load_data(find_task(name), None).digest == load_data(find_task(name), glue).digest


def test_classes_in_another_order_are_mapped_by_name(hub: dict[Any, Any]) -> None:
    label = datasets.ClassLabel(names=["positive", "negative"])
    rows = split({"sentence": ["good", "bad"], "label": [0, 1]}, label)
    dev = split({"sentence": ["new"], "label": [0]}, label)
    hub["nyu-mll/glue", "sst2"] = datasets.DatasetDict(train=rows, validation=dev)
    assert load_data(find_task("sst2"), None).train.labels == [1, 0]


def test_plain_integers_go_through_label_values(hub: dict[Any, Any]) -> None:
    plain = datasets.Value("int64")
    rows = split({"sentence": ["good", "bad"], "label": [1, 0]}, plain)
    dev = split({"sentence": ["new"], "label": [0]}, plain)
    hub["nyu-mll/glue", "sst2"] = datasets.DatasetDict(train=rows, validation=dev)
    assert load_data(find_task("sst2"), None).train.labels == [1, 0]
    pairs = split({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0]}, plain)
    hub["nyu-mll/glue", "rte"] = datasets.DatasetDict(train=pairs, validation=pairs)
    with pytest.raises(UserError, match="unknown label '1'; known: 'entailment'"):
        load_data(find_task("rte"), None)


def bad(feature: Any = None, **columns: list[Any]) -> datasets.Dataset:
    return split(columns, feature or datasets.ClassLabel(names=NAMES["sst2"]))


@pytest.mark.parametrize(
    "parts, said",
    [
        (
            {"validation": bad(sentence=["x", "y"], label=[1, -1])},
            "sst2, validation, row 1 (from 0): unknown label '-1'",
        ),
        ({"train": bad(sentence=["x", "y"], label=[1, -1])}, "sst2, train, row 1 (from 0): unknown label '-1'"),
        ({"train": bad(sentence=["x", None], label=[1, 0])}, "row 1 (from 0): no text in 'sentence'"),
        ({"train": bad(sentence=["x", "y"], label=[1, None])}, "row 1 (from 0): no label in 'label'"),
        ({"train": bad(text=["x", "y"], label=[1, 0])}, "has no column 'sentence'; its columns: 'text'"),
        (
            {"train": bad(datasets.ClassLabel(names=["no", "yes"]), sentence=["x", "y"], label=[1, 0])},
            "row 0 (from 0): unknown label 'yes'",
        ),
        ({"validation": None}, "has no split 'validation'; it has 'train'"),
    ],
)
def test_bad_rows_are_named(hub: dict[Any, Any], parts: dict[str, Any], said: str) -> None:
    good = bad(sentence=["good", "bad"], label=[1, 0])
    splits = {"train": good, "validation": good} | parts
    hub["nyu-mll/glue", "sst2"] = datasets.DatasetDict({k: v for k, v in splits.items() if v is not None})
    with pytest.raises(UserError) as error:
        load_data(find_task("sst2"), None)
    assert said in str(error.value)


def test_without_the_hub_the_ways_out_are_named() -> None:
    # a process of its own: huggingface_hub reads the variable when it is imported
    code = (
        "from smpcli.tasks.data import load_data; from smpcli.tasks.task import find_task\n"
        "from smpcli.errors import UserError\n"
        "try: load_data(find_task('sst2'), None)\n"
        "except UserError as error: print(error)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    for part in ("can't load nyu-mll/glue sst2", "--data-dir", "SMP_DATA_DIR", "SST-2/train.tsv", "`--task movies`"):
        assert part in done.stdout


def test_a_dry_run_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_download(*args: object, **kwargs: object) -> None:
        raise AssertionError("downloads")

    monkeypatch.setattr(datasets, "load_dataset", no_download)
    assert dry_run_sizes(find_task("sst2"), None) == (67349, 872)
