"""Reading files: what is in them comes out as it is, and every fault is named with its place."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from smpcli.errors import UserError
from smpcli.tasks.tables import read_table


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def columns(path: Path) -> dict[str, list[object]]:
    table = read_table(path)
    return {name: table.values(name) for name in table.columns}


def test_tsv_takes_quotes_literally_and_splits_at_newlines_only(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"open quote\t1\na\u2028b\x0cc\x85d\t0')
    assert columns(path) == {"text": ['"open quote', "a\u2028b\x0cc\x85d"], "label": ["1", "0"]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("suffix, sep", [(".tsv", "\t"), (".csv", ",")])
def test_bom_crlf_and_empty_lines_at_the_end_are_fine(
    tmp_path: Path, suffix: str, sep: str, mark: str, end: str
) -> None:
    path = write(tmp_path, f"a{suffix}", mark + end.join([f"text {sep}label", f"hm{sep}1", f"ä{sep}0", "", ""]))
    assert columns(path) == {"text": ["hm", "ä"], "label": ["1", "0"]}


def test_csv_quotes_and_line_numbers_behind_a_text_of_two_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'text,label\n"two\nlines, ""quoted""",1\nplain,0\n')
    table = read_table(path)
    assert table.values("text") == ['two\nlines, "quoted"', "plain"]
    assert table.place(1) == "a.csv, line 4"


def test_csv_reads_a_long_document_and_leaves_the_limit_of_others_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = write(tmp_path, "a.csv", "text,label\n" + "x" * (before + 10) + ",1\n")
    assert len(str(read_table(path).values("text")[0])) == before + 10
    assert csv.field_size_limit() == before


def test_jsonl_and_parquet_hold_the_same(tmp_path: Path) -> None:
    rows = [{"text": "ä \u2028 ✓", "label": 1}, {"text": "b", "label": 0}]
    jsonl = write(tmp_path, "a.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    parquet = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    assert columns(jsonl) == columns(parquet) == {"text": ["ä \u2028 ✓", "b"], "label": [1, 0]}
    assert read_table(parquet).place(1) == "a.parquet, row 1 (from 0)"


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "\n\n", "is empty"),
        ("a.tsv", "\ufeff\n", "is empty"),
        ("a.parquet", b"", "is empty"),
        ("a.csv", "text,label\n", "has a header line and no rows"),
        ("a.csv", "text,label\na,1\nb\n", "line 3: 1 column found, 2 expected"),
        ("a.csv", 'text,label\n"a\nb",1\nb,1,x\n', "line 4: 3 columns found, 2 expected"),
        ("a.tsv", "text\tlabel\na\t1\n\nb\t0\n", "line 3: 1 column found, 2 expected"),
        ("a.tsv", "text\tlabel\na\tb\t1\n", "line 2: 3 columns found, 2 expected"),
        ("a.csv", "text,label,text\na,1,b\n", "column 'text' appears more than once"),
        ("a.csv", 'text,label\nb,0\n"a,1\nc,1\n', "line 3: broken CSV"),
        ("a.csv", 'text,label\n"a" b,1\n', "line 2: broken CSV"),
        ("a.tsv", b"text\tlabel\nna\xefve\t1\n", "byte 0xef at offset 13 (line 2)"),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "\xff"}\n', "byte 0xff at offset 28 (line 3)"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), "UTF-16"),
        ("a.tsv", "text\tlabel\na\t1\nb\0\t0\n", "line 3: holds a NUL byte"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": \n', "line 2: broken JSON"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n', "line 2: broken JSON"),
        ("a.jsonl", '[\n{"text": "a"}\n]\n', "line 1: broken JSON"),
        ("a.jsonl", '{"text": "a"}\n["b", 1]\n', "line 2: must hold an object"),
        ("a.jsonl", '{"text": "a"}\n{"text": "\\ud800"}\n', "line 2: holds half a surrogate pair"),
        ("a.jsonl", "[" * 200_000, "line 1: broken JSON"),
        ("a.jsonl", '{"text": "a", "label": ' + "1" * 5000 + "}", "line 1: broken JSON"),
        ("a.parquet", b"PAR1 no parquet at all PAR1", "can't be read as parquet"),
        ("a.parquet", b"text,label\na,1\n", "can't be read as parquet"),
        ("a.json", "{}", "one object a line, as .jsonl"),
        ("a.xlsx", "x", "save the sheet as CSV"),
        ("a.csv.gz", "x", "unpack it first"),
        ("a.txt", "x", "a data file ends in .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as error:
        read_table(path)
    assert said in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_parquet_without_rows_and_one_with_a_column_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": pyarrow.array([], "string")}), path)
    with pytest.raises(UserError, match="no rows"):
        read_table(path)
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, path)
    with pytest.raises(UserError, match="'text' appears more than once"):
        read_table(path)


NESTED = {
    "list": pyarrow.array([["a"], ["b", "c"]]),
    "large_list": pyarrow.array([[1], []], pyarrow.large_list(pyarrow.int64())),
    "fixed_size_list": pyarrow.array([[1, 2], [3, 4]], pyarrow.list_(pyarrow.int64(), 2)),
    "struct": pyarrow.array([{"text": "x"}, {"text": "y"}]),
    "map": pyarrow.array([[("k", 1)], []], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    "extension": pyarrow.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 2, 2))),
}


@pytest.mark.parametrize("kind", NESTED)
def test_a_nested_column_of_parquet_is_in_nobody_s_way(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "more": NESTED[kind], "label": [1, 0]}), path)
    table = read_table(path)
    assert list(table.columns) == ["text", "more", "label"]
    assert (table.values("text"), table.values("label")) == (["a", "b"], [1, 0])
    assert table.take([1]).values("text") == ["b"]
    with pytest.raises(UserError, match=r"a\.parquet: can't read the column 'more': it holds .* values, neither"):
        table.values("more")


def test_a_nested_column_whose_field_is_called_like_a_flat_one(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a.text": ["x"], "a": pyarrow.array([{"text": "y"}])}), path)
    assert read_table(path).values("a.text") == ["x"]


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read_table(tmp_path / "folder.csv")
