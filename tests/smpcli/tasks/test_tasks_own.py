"""A person's own file as a task: columns, kind, labels, split, and what is refused."""

# Rows may be questions, says their type; here they have labels.
# mypy: disable-error-code="union-attr"
import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from smpcli.errors import UserError
from smpcli.tasks.data import TaskData, dry_run_sizes, load_data
from smpcli.tasks.task import find_task

Writer = Callable[..., Path]


@pytest.fixture
def csv(tmp_path: Path) -> Writer:
    def write(*lines: str, name: str = "my.csv") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def reviews(n: int, labels: tuple[str, ...] = ("neg", "pos")) -> list[str]:
    return [f"review number {i},{labels[i % len(labels)]}" for i in range(n)]


def load(path: Path, **columns: str) -> TaskData:
    return load_data(find_task(str(path), **columns), None)


@pytest.mark.parametrize(
    "header, named, expected",
    [
        ("text,label", {}, ("text", None, "label")),
        ("id,Review,Sentiment", {}, ("Review", None, "Sentiment")),
        ("sentence1,sentence2,score", {}, ("sentence1", "sentence2", "score")),
        ("premise,hypothesis,gold_label,label", {}, ("premise", "hypothesis", "label")),
        ("text,label", {"text": "label", "label": "text"}, ("label", None, "text")),
        ("foo,bar", {"text": "foo", "label": "bar"}, ("foo", None, "bar")),
        ("text,foo,label", {"pair": "foo"}, ("text", "foo", "label")),
        ("sentence1,sentence2,label", {"text": "sentence1"}, ("sentence1", None, "label")),
    ],
)
def test_columns_are_taken_as_named_or_guessed(
    csv: Writer, header: str, named: dict[str, str], expected: tuple[str | None, ...]
) -> None:
    width = header.count(",") + 1
    path = csv(header, *(",".join(f"{column}{row}" for column in range(width)) for row in range(6)))
    task = find_task(str(path), **named)
    assert (task.text, task.pair, task.label) == expected
    assert task.name == "my"
    assert all(f"'{column}'" in task.title for column in expected if column)


@pytest.mark.parametrize(
    "values, kind, labels",
    [
        (["b", "a", "b", "a"], "classification", ["a", "b"]),
        (["10", "9", "2", "10"], "classification", ["2", "9", "10"]),
        (["1.0", "0.0", "1", "0"], "classification", ["0", "1"]),
        (["-1", "1", "1", "-1"], "classification", ["-1", "1"]),
        (["x", "10", "9", "x"], "classification", ["9", "10", "x"]),
        (["True", "False", "True", "False"], "classification", ["False", "True"]),
        (["0.5", "1", "2", "3"], "regression", []),
        ([str(i) for i in range(30)] * 2, "classification", [str(i) for i in range(30)]),
        ([str(i + 1) for i in range(30)] * 2, "classification", [str(i + 1) for i in range(30)]),
        ([str(i * 3) for i in range(30)] * 2, "regression", []),
        ([str(i * 3) for i in range(20)], "classification", [str(i * 3) for i in range(20)]),
    ],
)
def test_kind_and_labels(csv: Writer, values: list[str], kind: str, labels: list[str]) -> None:
    task = find_task(str(csv("text,label", *(f"text {i},{value}" for i, value in enumerate(values)))))
    assert (task.kind, task.labels) == (kind, labels)
    assert ("regression" in task.title) == (kind == "regression")
    assert task.metrics[0] == ("accuracy" if kind == "classification" else "pearson")


def test_every_format_gives_the_same_data(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "label": i % 3} for i in range(40)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows))
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"{r['text']}\t{r['label']}\n" for r in rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    loaded = [load(tmp_path / f"a.{suffix}") for suffix in ("csv", "tsv", "jsonl", "parquet")]
    assert {data.digest for data in loaded} == {loaded[0].digest}
    assert loaded[0].labels == ["0", "1", "2"]
    assert [data.origin for data in loaded][:2] == ["file a.csv", "file a.tsv"]


@pytest.mark.parametrize(
    "values, kind, expected",
    [
        (pyarrow.array([Decimal(i % 2) for i in range(40)], pyarrow.decimal128(5, 2)), "classification", {0, 1}),
        (pyarrow.array([Decimal(i % 2) for i in range(40)], pyarrow.decimal256(60, 0)), "classification", {0, 1}),
        (pyarrow.array([Decimal(i % 2 - 5) / 4 for i in range(40)]), "regression", {-1.25, -1}),
        (pyarrow.array([i % 2 for i in range(40)], pyarrow.int8()), "classification", {0, 1}),
        (pyarrow.array([i % 2 for i in range(40)], pyarrow.uint64()), "classification", {0, 1}),
        (pyarrow.array([i % 2 for i in range(40)], pyarrow.float32()), "classification", {0, 1}),
        (pyarrow.array([i % 2 + 0.5 for i in range(40)], pyarrow.float16()), "regression", {0.5, 1.5}),
        (pyarrow.array([f"{i % 2}" for i in range(40)], pyarrow.large_string()), "classification", {0, 1}),
        (pyarrow.array([f"{i % 2}" for i in range(40)], pyarrow.string_view()), "classification", {0, 1}),
        (pyarrow.array([f"{i % 2}" for i in range(40)]).dictionary_encode(), "classification", {0, 1}),
        (pyarrow.array([i % 2 for i in range(40)]).dictionary_encode(), "classification", {0, 1}),
        (pyarrow.array([i % 2 == 1 for i in range(40)]), "classification", {0, 1}),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pyarrow.Array) else None,
)
def test_labels_of_parquet_s_types(tmp_path: Path, values: pyarrow.Array, kind: str, expected: set[float]) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"text {i}" for i in range(40)], "label": values}), path)
    task = find_task(str(path))
    data = load_data(task, None)
    assert task.kind == kind
    assert {*data.train.labels, *data.dev["dev"].labels} == expected
    assert task.labels in ([], ["0", "1"], ["false", "true"])


@pytest.mark.parametrize(
    "values, said",
    [
        (pyarrow.array([date(2020, 1, 1 + i % 2) for i in range(9)]), "the label in 'label' is a date"),
        (pyarrow.array([b"x"] * 9), "the label in 'label' is a bytes"),
        (pyarrow.array([[i % 2] for i in range(9)]), "can't read the column 'label': it holds list"),
        (pyarrow.array([{"id": i % 2} for i in range(9)]), "can't read the column 'label': it holds struct"),
        (pyarrow.nulls(9), "row 0 (from 0): no label in 'label'"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pyarrow.Array) else None,
)
def test_what_no_label_can_be_in_parquet(tmp_path: Path, values: pyarrow.Array, said: str) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"text {i}" for i in range(9)], "label": values}), path)
    with pytest.raises(UserError) as error:
        find_task(str(path))
    assert said in str(error.value)


def test_truth_values_in_jsonl_are_classes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"t{i}", "label": i % 2 == 0}) + "\n" for i in range(9)))
    assert find_task(str(path)).labels == ["false", "true"]


def test_split_is_a_tenth_keeps_rows_in_place_and_repeats_together(csv: Writer) -> None:
    rows = reviews(2000)
    data = load(csv("text,label", *rows))
    train, dev = data.train.texts, data.dev["dev"].texts
    assert sorted(train + dev) == sorted(row.split(",")[0] for row in rows)
    assert 140 <= len(dev) <= 260  # binomial(2000, 0.1) has a standard deviation of 13.4
    assert train == [text for text in (row.split(",")[0] for row in rows) if text not in set(dev)]
    labels = dict(row.split(",") for row in rows)
    for examples in (data.train, data.dev["dev"]):
        assert [data.labels[int(i)] for i in examples.labels] == [labels[str(text)] for text in examples.texts]
    # more rows, among them repeats in another spelling: nobody changes sides
    more = load(csv("text,label", *rows, *reviews(2100)[2000:], *(row.replace("r", "R  ", 1) for row in rows)))
    assert set(dev) == {text for text in more.dev["dev"].texts if text in labels}
    assert not {" ".join(t.lower().split()) for t in more.train.texts} & {t.lower() for t in dev}


@pytest.mark.parametrize("n", [3, 4, 5, 8, 12])
def test_a_small_file_has_a_row_on_each_side_and_each_class_to_train_on(csv: Writer, n: int) -> None:
    data = load(csv("text,label", *reviews(n)))
    assert len(data.dev["dev"]) >= 1
    assert set(data.train.labels) == {0, 1}
    assert len(data.train) + len(data.dev["dev"]) == n


def test_rare_classes_are_never_all_held_out(csv: Writer) -> None:
    rare = [f"rare {i},class{i}" for i in range(100)]
    data = load(csv("text,label", *reviews(300), *rare))
    assert set(data.train.labels) == set(range(102))


def test_too_few_texts(csv: Writer) -> None:
    with pytest.raises(UserError, match=r"too few different texts \(2\)"):
        load(csv("text,label", "a,1", "b,0", "a,1"))


def test_pairs_count_as_one_text_in_the_split(csv: Writer) -> None:
    data = load(csv("sentence1,sentence2,label", *(f"same,other {i},{i % 2}" for i in range(400))))
    assert 10 <= len(data.dev["dev"]) <= 80
    assert data.train.pairs is not None and len(data.train.pairs) == len(data.train)


def test_dev_file(csv: Writer) -> None:
    train = csv("text,label", "a,0", "b,1", "c,1.0", name="train.csv")
    dev = csv("label,text", "1,d", name="dev.csv")
    task = find_task(str(train))
    data = load_data(task, None, dev_file=dev)
    assert (data.train.labels, data.dev["dev"].texts, data.dev["dev"].labels) == ([0, 1, 1], ["d"], [1])
    assert data.origin == "file train.csv, dev dev.csv"
    assert dry_run_sizes(task, None, dev) == (3, 1)
    with pytest.raises(UserError, match="is the training file too"):
        load_data(task, None, dev_file=train)
    strange = csv("text,label", "d,1", "e,2", name="dev.csv")
    with pytest.raises(UserError, match=r"dev\.csv, line 3: unknown label '2'; known: '0', '1'"):
        load_data(task, None, dev_file=strange)
    with pytest.raises(UserError, match="goes with a data file of your own"):
        load_data(find_task("sst2"), None, dev_file=dev)


def test_a_data_folder_for_other_tasks_does_not_get_in_the_way(
    csv: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMP_DATA_DIR", str(tmp_path / "elsewhere"))
    path = csv("text,label", *reviews(10))
    assert dry_run_sizes(find_task(str(path)), None, None)[0] == len(load(path).train)


@pytest.mark.parametrize(
    "lines, said",
    [
        (["text,foo", "a,1", "b,0"], "my.csv has no label column"),
        (["foo,label", "a,1", "b,0"], "my.csv has no text column"),
        (["great film,1", "bad,0", "x,0"], "the first line names them"),
        (["text;label", "a;1", "b;0"], "seems to be separated by ';'"),
        (["text\tlabel", "a\t1", "b\t0"], "seems to be separated by tab"),
        (["text,label", "a,1", "b,1", "c,1"], "every row has the label '1'"),
        (["text,label", "a,1", "b,", "c,0"], "my.csv, line 3: no label in 'label'"),
        (["text,label", "a,1", "  ,0", "c,0"], "my.csv, line 3: no text in 'text'"),
        (["text,label", "a,0.5", "b,nan", "c,1"], "my.csv, line 3: the label 'nan' is not a finite number"),
        (["text,label", "a,0", "b,NaN", "c,1"], "my.csv, line 3: the label 'NaN' is not a finite number"),
        (["text,label", "a,0.5", "b,1", "c,-inf"], "my.csv, line 4: the label '-inf' is not a finite number"),
        (["text,label", "a,0.5", "b,1e39", "c,1"], "my.csv, line 3: the label '1e39' is not a finite number"),
        (["text,label", "a,0.5", "b,0.5", "c,0.5"], "every row to train on has the label '0.5'"),
        (["text,label", "a,Pos", "b,pos", "c,neg"], "'Pos' and 'pos' differ in case only"),
        (["text,label", *(f"a{i},topic {i}" for i in range(60))], "60 different values in 60 rows"),
    ],
)
def test_bad_data_are_named(csv: Writer, lines: list[str], said: str) -> None:
    path = csv(*lines)
    with pytest.raises(UserError) as error:
        load(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "row, said",
    [
        ({"text": "b"}, "line 2: no label in 'label'"),
        ({"label": 1}, "line 2: no text in 'text'"),
        ({"text": None, "label": 1}, "line 2: no text in 'text'"),
        ({"text": 5, "label": 1}, "line 2: 'text' must be text, not int (5)"),
        ({"text": "b", "label": [1, 0]}, "line 2: the label in 'label' is a list"),
        ({"text": "b", "label": float("nan")}, "line 2: the label 'nan' is not a finite number"),
    ],
)
def test_bad_rows_of_jsonl_are_named(tmp_path: Path, row: dict[str, object], said: str) -> None:
    path = tmp_path / "my.jsonl"
    rows = [{"text": "a", "label": 0}, row, *({"text": f"c{i}", "label": i % 2} for i in range(4))]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError) as error:
        load(path)
    assert f"my.jsonl, {said}" in str(error.value)


def test_a_regression_dev_label_that_is_no_number(csv: Writer) -> None:
    task = find_task(str(csv("text,label", "a,0.5", "b,1", "c,2.5")))
    dev = csv("text,label", "d,3.5", "e,good", name="dev.csv")
    with pytest.raises(UserError, match=r"dev\.csv, line 3: the label 'good' is not a finite number"):
        load_data(task, None, dev_file=dev)


def test_unknown_column_is_answered_with_the_nearest(csv: Writer) -> None:
    path = csv("text,verdict", *reviews(4))
    with pytest.raises(UserError, match="unknown column 'verdikt'; did you mean 'verdict'"):
        find_task(str(path), label="verdikt")


def test_one_column_for_two_things(csv: Writer) -> None:
    path = csv("text,label", *reviews(4))
    with pytest.raises(UserError, match="must be different columns"):
        find_task(str(path), text="text", label="text")
