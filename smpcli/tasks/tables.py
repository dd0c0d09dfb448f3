"""Reading files into columns: csv, tsv, jsonl, parquet; every fault is named with its line.

Numbers and texts come out as the file has them; what they mean is the task's business (`data.py`).
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smpcli.errors import UserError, one_line, visible
from smpcli.files import is_file, is_folder

FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")
# A table has a few columns; what has thousands is damaged, or meant to use up time and memory.
MOST_COLUMNS = 2_000
# Parquet compresses: what a file may hold, unpacked, is this, or so many times its own size.
PARQUET_BYTES, PARQUET_TIMES = 2**26, 100
PARQUET_ROWS = 1_000  # unpacked at a time


@dataclass(frozen=True)
class Table:
    """Named columns of equal length. `numbers` holds each row's place, counted in `unit`s, for messages."""

    name: str
    columns: dict[str, Any]  # a list, or an Arrow column, which `values` turns into one when it is wanted
    numbers: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.numbers)

    def values(self, column: str) -> list[Any]:
        """The column's values in row order. Raises `UserError` when there is no such column."""
        if column not in self.columns:
            raise UserError(f"{self.name} has no column '{column}'", f"its columns: {shown(self.columns)}")
        found = self.columns[column]
        try:
            return found if isinstance(found, list) else list(found.to_pylist())
        except (ValueError, OverflowError) as error:  # bytes that aren't text, a time beyond all calendars
            raise UserError(f"{self.name}: can't read the column '{column}': {one_line(str(error), 80)}") from None

    def place(self, row: int) -> str:
        """Where row `row` (from 0) is, as a person finds it."""
        counted = "" if self.unit == "line" else " (from 0)"
        return f"{self.name}, {self.unit} {self.numbers[row]}{counted}"

    def take(self, rows: list[int]) -> Table:
        """The same table with some of its rows."""
        columns: dict[str, Any] = {}
        for name, found in self.columns.items():
            if isinstance(found, _Nested):
                columns[name] = found
            else:
                values = self.values(name)
                columns[name] = [values[row] for row in rows]
        return Table(self.name, columns, [self.numbers[row] for row in rows], self.unit)

    def renamed(self, names: dict[str, str]) -> Table:
        """The same table with the columns in `names` called otherwise."""
        columns = {names.get(name, name): values for name, values in self.columns.items()}
        return Table(self.name, columns, self.numbers, self.unit)


def shown(names: Any, limit: int = 12) -> str:
    """Up to `limit` names for a message."""
    names = [str(name) for name in names]
    text = ", ".join(f"'{visible(name, 40)}'" for name in names[:limit])
    return text + (f", … ({len(names)} in all)" if len(names) > limit else "")


def read_table(path: Path, *, header: list[str] | None = None, drop_short: bool = False) -> Table:
    """Read a file by what its name ends in; `header` names the columns of a csv or tsv that doesn't.

    drop_short: leave out rows of a csv or tsv with too few columns, instead of refusing the file.

    csv: commas, double quotes (RFC 4180, strict). tsv: tabs and no quoting at all, as GLUE's files are.
    jsonl: one object a line. A BOM, CRLF and empty lines at the end are fine. Raises `UserError`.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"can't read {path.name}: a data file ends in {', '.join(FORMATS)}", _advice(suffix))
    if suffix == ".parquet":
        return _parquet(path, _raw(path))
    text = read_text(path)
    if suffix == ".jsonl":
        return _jsonl(path, text)
    numbered = _csv_rows(path, text) if suffix == ".csv" else _tsv_rows(text)
    return _delimited(path, numbered, header, drop_short)


def read_text(path: Path) -> str:
    """A UTF-8 file without its BOM and the empty lines at its end. Raises `UserError`."""
    text = _decode(path, _raw(path)).rstrip("\r\n")
    if not text.strip():
        raise UserError(f"{path} is empty")
    return text


def _raw(path: Path) -> bytes:
    if not is_file(path):
        raise UserError(f"{path} is a folder, not a file" if is_folder(path) else f"there is no file {path}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"can't read {path}: {error.strerror or error}") from error
    if not raw.strip():
        raise UserError(f"{path} is empty")
    return raw


def _advice(suffix: str) -> str:
    if suffix == ".json":
        return "save it with one object a line, as .jsonl"
    if suffix in (".xlsx", ".xls", ".ods"):
        return "save the sheet as CSV UTF-8"
    if suffix in (".gz", ".zip", ".bz2", ".xz"):
        return "unpack it first"
    return ""


def _decode(path: Path, raw: bytes) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} isn't UTF-8 but UTF-16", "save it as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind a BOM
        start = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        line = raw.count(b"\n", 0, start) + 1
        raise UserError(
            f"{path} isn't UTF-8: byte 0x{raw[start]:02x} at offset {start} (line {line})", "save it as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}, line {line}: holds a NUL byte: it is damaged or no text file")
    return text


def _tsv_rows(text: str) -> list[tuple[int, list[str]]]:
    # str.splitlines would also split at U+2028, form feeds and others, which texts may hold
    return [(i, line.removesuffix("\r").split("\t")) for i, line in enumerate(text.split("\n"), 1)]


def _csv_rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    start = 1
    limit = csv.field_size_limit(len(text) + 1)  # a document may be longer than csv's 131,072 characters
    try:
        for row in reader:
            rows.append((start, row or [""]))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {start}: broken CSV ({error})", "a quote inside a quoted field is written twice"
        ) from None
    finally:
        csv.field_size_limit(limit)
    return rows


def _delimited(path: Path, rows: list[tuple[int, list[str]]], header: list[str] | None, drop_short: bool) -> Table:
    if header is None:
        header = [name.strip() for name in rows[0][1]]
        rows = rows[1:]
        if not rows:
            raise UserError(f"{path} has a header line and no rows")
    _refuse_many(path, header)
    repeated = {name for name, count in Counter(header).items() if name and count > 1}
    if repeated:
        raise UserError(f"{path}: column {shown(sorted(repeated))} appears more than once")
    width = len(header)
    if drop_short:
        rows = [(line, row) for line, row in rows if len(row) >= width]
    for line, row in rows:
        if len(row) != width:
            noun = "column" if len(row) == 1 else "columns"
            raise UserError(f"{path}, line {line}: {len(row)} {noun} found, {width} expected")
    columns = {
        name: list(values) for name, values in zip(header, zip(*(r for _, r in rows), strict=True), strict=True)
    }
    return Table(path.name, columns, [line for line, _ in rows])


def _jsonl(path: Path, text: str) -> Table:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
            if "\\u" in line:
                json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair isn't a character
        except UnicodeEncodeError:
            raise UserError(
                f"{place}: holds half a surrogate pair (\\ud800 to \\udfff), which is not a character"
            ) from None
        except json.JSONDecodeError as error:
            remedy = "each line must hold one whole object" if number == 1 else ""
            raise UserError(f"{place}: broken JSON ({error.msg}, column {error.colno})", remedy) from None
        except (RecursionError, ValueError) as error:
            raise UserError(f"{place}: broken JSON ({one_line(str(error), 80)})") from None
        if not isinstance(row, dict):
            raise UserError(f'{place}: must hold an object like {{"text": …, "label": …}}')
        rows.append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))
    _refuse_many(path, names)
    columns = {name: _Objects(rows, name) for name in names}
    return Table(path.name, columns, range(1, len(rows) + 1))


def _unpacked(column: Any) -> int:
    """Bytes of an Arrow array with its dictionary, if it has one, written out."""
    import pyarrow
    import pyarrow.compute as pc

    kind = column.type
    if pyarrow.types.is_dictionary(kind) and (
        pyarrow.types.is_string(kind.value_type) or pyarrow.types.is_binary(kind.value_type)
    ):
        lengths = pc.binary_length(column.dictionary).take(column.indices)
        return len(column) + (pc.sum(lengths).as_py() or 0)
    return int(column.nbytes)


def _refuse_many(path: Path, names: Sequence[str]) -> None:
    if len(names) > MOST_COLUMNS:
        raise UserError(f"{path} has {len(names):,} columns, more than {MOST_COLUMNS:,}", "is it a table?")


@dataclass(frozen=True)
class _Objects:
    """A column of JSON objects, made into a list when it is wanted."""

    rows: list[dict[str, Any]]
    name: str

    def to_pylist(self) -> list[Any]:
        return [row.get(self.name) for row in self.rows]


@dataclass(frozen=True)
class _Nested:
    """A parquet column of lists, structs or maps: left unread, as neither text nor label can be one."""

    kind: str

    def to_pylist(self) -> list[Any]:
        raise ValueError(f"it holds {self.kind} values, neither texts nor numbers")


def _parquet(path: Path, raw: bytes) -> Table:
    import pyarrow
    import pyarrow.parquet

    most = max(PARQUET_BYTES, PARQUET_TIMES * len(raw))
    too_much = UserError(
        f"{path} unpacks to more than {most:,} bytes from {len(raw):,}: that is not a table of texts"
    )
    try:
        schema = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(raw)).schema_arrow
        names = list(schema.names)
        _refuse_many(path, names)
        if len(set(names)) < len(names):
            repeated = sorted({name for name in names if names.count(name) > 1})
            raise UserError(f"{path}: column {shown(repeated)} appears more than once")
        stored = {field.name: getattr(field.type, "storage_type", field.type) for field in schema}
        nested = {name: _Nested(str(kind)) for name, kind in stored.items() if pyarrow.types.is_nested(kind)}
        flat = [name for name in names if name not in nested]
        # As dictionaries, so that one long text that is repeated in every row takes its memory once.
        file = pyarrow.parquet.ParquetFile(
            pyarrow.BufferReader(raw), read_dictionary=flat, page_checksum_verification=True
        )
        about = file.metadata
        groups = [about.row_group(index) for index in range(about.num_row_groups)]
        if about.num_rows > most or sum(group.total_byte_size for group in groups) > most:
            raise too_much
        batches, size = [], 0
        for batch in file.iter_batches(PARQUET_ROWS, columns=flat if nested else None, use_threads=False):
            size += sum(_unpacked(column) for column in batch.columns)
            if size > most:
                raise too_much
            batches.append(batch)
        table = pyarrow.Table.from_batches(batches) if batches else None
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise UserError(f"{path} can't be read as parquet: {one_line(str(error), 120)}") from None
    if not about.num_rows:
        raise UserError(f"{path} has columns and no rows")
    read = dict(zip(table.column_names, table.columns, strict=True)) if table is not None else {}
    columns = {name: nested.get(name, read.get(name)) for name in names}
    return Table(path.name, columns, range(about.num_rows), "row")
