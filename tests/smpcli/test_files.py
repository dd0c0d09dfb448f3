"""Files appear whole or not at all, whatever the system refuses; nobody else's file is written at the same time."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from smpcli import UserError, compare, evaluate, export, prune
from smpcli.files import exclusive, harmless_cell, refusal, write_text
from smpcli.runs.rundir import RunDir, RunError

STEPS = 6


class Faults:
    """Wraps what writing is made of, counts the calls below a folder, and fails the one that was chosen."""

    NAMES = ("mkstemp", "write", "save", "fsync", "chmod", "replace", "unlink", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        import safetensors.torch

        self.folder = str(folder)
        self.calls: list[str] = []
        self.chosen, self.error = -1, 0
        write_bytes, save = Path.write_text, safetensors.torch.save_file

        def wrap(name: str, owner: Any, attribute: str, path_of: Callable[..., Any]) -> None:
            found = getattr(owner, attribute)

            def call(*args: Any, **named: Any) -> Any:
                self.count(name, path_of(*args, **named))
                return found(*args, **named)

            monkeypatch.setattr(owner, attribute, call)

        def half_written(name: str, path: Path, content: bytes) -> None:
            # A full disk takes the first bytes.
            self.count(name, path, lambda: path.write_bytes(content))

        def watched_write(path: Path, text: str, **named: Any) -> int:
            half_written("write", path, text.encode()[: len(text) // 2])
            return write_bytes(path, text, **named)

        def watched_save(tensors: Any, path: Path, *more: Any) -> None:
            half_written("save", Path(path), b"half")
            save(tensors, path, *more)

        monkeypatch.setattr(Path, "write_text", watched_write)
        monkeypatch.setattr(safetensors.torch, "save_file", watched_save)
        wrap("mkstemp", tempfile, "mkstemp", lambda *args, dir=None, **named: dir)
        wrap("fsync", os, "fsync", lambda handle: Path(f"/proc/self/fd/{handle}").readlink())
        wrap("chmod", os, "chmod", lambda path, *args, **named: path)
        wrap("replace", os, "replace", lambda source, target: target)
        wrap("unlink", os, "unlink", lambda path, **named: path)
        wrap("mkdir", os, "mkdir", lambda path, *args, **named: path)

    def count(self, name: str, path: Any, before: Callable[[], object] = lambda: None) -> None:
        if not str(path).startswith(self.folder):
            return
        self.calls.append(name)
        if len(self.calls) - 1 == self.chosen:
            before()
            raise OSError(self.error, os.strerror(self.error), str(path))

    def at(self, chosen: int, error: int) -> None:
        self.calls, self.chosen, self.error = [], chosen, error


@pytest.fixture
def once(pico: Any, sentiment: Any) -> Callable[..., Any]:
    def call(output: Path, **options: Any) -> Any:
        given = {"model": str(pico("bert")), "max_steps": STEPS, "batch_size": 8, "evaluations": 1}
        return prune(str(sentiment.csv), "smp", output=output, **{**given, "checkpoint_every": 3, **options})

    return call


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def masks_of(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.glob("*/mask.safetensors")}


def test_a_fault_at_every_write_of_a_run(once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each, the folder is one that says what it is, and the same command with --resume makes it whole."""
    whole = masks_of(once(tmp_path / "whole").path.parent)
    output = tmp_path / "out"
    errors = (errno.ENOSPC, errno.EACCES, errno.EIO)
    with monkeypatch.context() as patched:
        faults = Faults(patched, output)
        once(output)
        calls = list(faults.calls)
        assert set(calls) == set(Faults.NAMES)
        shutil.rmtree(output)
        failed = 0
        # Early, middle and late calls of each kind; SMP_ALL_FAULTS=1 takes all of them, which takes minutes.
        chosen = set(range(len(calls))) if os.environ.get("SMP_ALL_FAULTS") else set()
        for name in Faults.NAMES:
            chosen |= _spread([index for index, call in enumerate(calls) if call == name])
        for turn, index in enumerate(sorted(chosen)):
            faults.at(index, errors[turn % 3])
            try:
                once(output)
            except UserError as error:
                failed += 1
                assert os.strerror(errors[turn % 3]) in str(error) and len(str(error).splitlines()) == 1
            faults.at(-1, 0)
            _says_what_it_is(output)
            once(output, resume=True)
            assert masks_of(output) == whole
            (path,) = output.iterdir()
            assert not [entry for entry in path.iterdir() if entry.name.startswith(".") or entry.is_dir()]
            shutil.rmtree(output)
        # What is refused while cleaning up after the result, or while a lock is let go, is no fault of the run.
        assert failed >= 0.6 * len(chosen)
        print(f"{len(chosen)} of {len(calls)} calls failed in turn; {failed} of them ended the run")


def _spread(indices: list[int]) -> set[int]:
    return {indices[0], indices[len(indices) // 2], indices[-1]}


def _says_what_it_is(output: Path) -> None:
    """`compare` and `eval` know each state: nothing there yet, unfinished, or finished."""
    runs = [path for path in output.iterdir() if path.is_dir()] if output.exists() else []
    if not runs or not list(runs[0].iterdir()):
        return
    if (runs[0] / "result.json").exists():
        assert evaluate(runs[0]).agrees
        return
    if (runs[0] / "settings.yaml").exists():
        ((_, reason),) = compare(output).problems
        assert "unfinished" in reason
    with pytest.raises(RunError, match=r"is unfinished|is not a run"):
        RunDir.open(runs[0])


def test_a_finished_run_done_anew_is_old_or_gone_or_new(
    once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--overwrite on a failing disk: never a result beside files that it doesn't speak of."""
    output = tmp_path / "out"
    path = once(output).path
    before = snapshot(path)
    failed = 0
    for chosen in (1, 2, 5, 12, 20):
        with monkeypatch.context() as patched:
            faults = Faults(patched, path)
            faults.at(chosen, errno.EIO)
            try:
                once(output, overwrite=True)
            except UserError as error:
                assert "Input/output error" in str(error)
                failed += 1
        _says_what_it_is(output)
        if (path / "result.json").exists():
            assert snapshot(path).keys() == before.keys()
        once(output, resume=True)
        assert masks_of(output) == {before["mask.safetensors"]}
    assert failed >= 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB, where this machine lets us mount one."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system of its own can be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("format", ["hf", "compact", "sparse", "onnx", "mask"])
def test_an_export_to_a_disk_that_is_really_full(once: Any, small_disk: Path, tmp_path: Path, format: str) -> None:
    """Libraries in Rust raise errors of their own, and the words of the system stand in them."""
    run = once(tmp_path / "runs").path
    for size in (4, 16, 48):
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(small_disk)], check=True)
        (small_disk / "filled").write_bytes(b"x" * (size - 4) * 1024)
        with pytest.raises(UserError, match=r"^can't write .*No space left on device"):
            export(run, format, output=small_disk / "export")
        assert [path.name for path in small_disk.iterdir()] == ["filled"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SafetensorError("Error while serializing: I/O error: No space left (os error 28)"), os.strerror(28)),
        (Exception("Permission denied (os error 13)"), os.strerror(13)),
        (
            SafetensorError("Error while serializing: a tensor of no type"),
            "Error while serializing: a tensor of no type",
        ),
        (OSError(5, "Input/output error"), "Input/output error"),
        (SafetensorError("Error while deserializing header"), None),
        (Exception("no such file"), None),
        (RuntimeError("it went wrong (os error 2)"), None),
    ],
)
def test_what_a_library_says_of_a_refusal(error: Exception, reason: str | None) -> None:
    found = refusal(error)
    assert (found if found is None else found.strerror or str(found)) == reason


def test_a_disk_that_is_really_full(once: Any, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"free, and the run needs"):
        once(small_disk)
    assert list(small_disk.iterdir()) == []
    monkeypatch.setattr("smpcli.training.run._check_disk", lambda *args: None)
    with pytest.raises(UserError, match=r"can't write .*(No space left|os error 28)"):
        once(small_disk)
    _says_what_it_is(small_disk)
    assert not list(small_disk.rglob("*.tmp"))
    # Full at another place of the run each time; then there is room, and the same command makes it whole.
    messages = set()
    for size in (4, 100, 300, 400):
        shutil.rmtree(next(small_disk.iterdir(), small_disk / "none"), ignore_errors=True)
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(small_disk)], check=True)
        with pytest.raises(UserError, match=r"can't write .*(No space left|os error 28)") as error:
            once(small_disk)
        messages.add(str(error.value).partition(":")[0].rpartition("/")[2])
        _says_what_it_is(small_disk)
    assert len(messages) >= 3
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    once(small_disk, resume=True)
    (path,) = small_disk.iterdir()
    assert {entry.name for entry in path.iterdir()} == {
        *("settings.yaml", "metrics.jsonl", "predictions.jsonl", "result.json"),
        *("mask.safetensors", "head.safetensors"),
    }


def test_files_that_may_not_grow(once: Any, tmp_path: Path) -> None:
    """RLIMIT_FSIZE, the limit of a quota: the library that writes tensors fails for real."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"can't write .*(File too large|os error 27)"):
            once(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    _says_what_it_is(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    once(tmp_path, resume=True)


def test_a_lock_is_the_processes_own_and_dies_with_it(tmp_path: Path) -> None:
    target = tmp_path / "out" / "run"
    code = (
        "import sys, pathlib; from smpcli.files import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    held = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None and held.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=r"another process is writing .*run.*--output"), exclusive(target):
        pass
    held.kill()
    held.communicate()
    (target.parent / ".run.x1.tmp").write_text("half")
    (target.parent / ".other.x1.tmp").write_text("another's")
    with exclusive(target):
        assert {path.name for path in target.parent.iterdir()} == {".run.lock", ".other.x1.tmp"}
        with pytest.raises(UserError), exclusive(target):
            pass
        with exclusive(target.with_name("other run")):
            pass
    assert {path.name for path in target.parent.iterdir()} == {".other.x1.tmp"}


def test_the_folder_is_synced_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched(handle: int) -> None:
        order.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def renamed(source: Any, target: Any) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched)
    monkeypatch.setattr(os, "replace", renamed)
    write_text(tmp_path / "a.json", "{}")
    assert order[0].startswith(".a.json.") and order[1:] == ["rename", tmp_path.name]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"), ("+x", "'+x"), ("-x", "'-x"), ("@SUM(A1)", "'@SUM(A1)"), ("\tx", "'\tx"), ("\rx", "'\rx"),
        ("-0.5", "-0.5"), ("+3", "+3"), ("-1e-5", "-1e-5"), ("-1+cmd|' /C calc'!A0", "'-1+cmd|' /C calc'!A0"),
        ("-1\n=2", "'-1\n=2"), ("a=b", "a=b"), ("", ""), ("'=x", "'=x"),
    ],
)  # fmt: skip
def test_cells_that_a_spreadsheet_would_run(text: str, cell: str) -> None:
    assert harmless_cell(text) == cell
