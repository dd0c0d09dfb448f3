"""The Tab key, and what a bug report should say."""

from __future__ import annotations

import http.server
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import Smp, run_process

ROOT = Path(__file__).parents[2]
# Completion as the shell's script asks for it, then the modules that it took.
COMPLETE = """
import sys
from smpcli.main import main
sys.argv = ["smp"]
try:
    main()
finally:
    sys.stdout.flush()
    print("\\n", *sorted(sys.modules))
"""
HEAVY = {"torch", "transformers", "datasets", "pandas", "numpy", "accelerate", "ray", "safetensors"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("smp prune --method s", {"smp", "snip-momentum", "soft-movement"}),
        ("smp methods mag", {"magnitude", "magnitude-one-shot"}),
        ("smp prune --task m", {"movies", "mrpc"}),
        ("smp prune --recipe q", {"quick"}),
        ("smp prune --track t", {"tensorboard", "trackio"}),
        ("smp sweep p", {"paper-figure"}),
        ("smp sweep quick --engine r", {"ray"}),
        ("smp reproduce mnli-kd", {"mnli-kd", "mnli-kd-10"}),
        ("smp eval ", {"results/one"}),
        ("smp export results/o", {"results/one"}),
        ("smp eval other/", {"other/two"}),
        ("smp doc", {"doctor"}),
    ],
)
def test_tab_offers_what_there_is_without_importing_torch(
    typed: str, offered: set[str], environment: dict[str, str], tmp_path: Path
) -> None:
    for run in ("results/one", "other/two"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "result.json").touch()
    (tmp_path / "results" / "unfinished").mkdir()
    words = typed.split(" ")
    asked = {"_SMP_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    env = environment | asked | {"PYTHONPATH": str(ROOT)}
    done = run_process([sys.executable, "-c", COMPLETE], tmp_path, env)
    *found, modules = done.out.splitlines()
    assert offered <= set(found) and "Traceback" not in done.err
    # Nothing that doesn't begin as typed, but for a run's folder.
    assert all(name.startswith((words[-1], "results/")) for name in found if name)
    assert "typer" in modules.split() and not HEAVY & set(modules.split())


class Answer(http.server.BaseHTTPRequestHandler):
    """A hub that says 403, and a package index with one package."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def do_GET(self) -> None:
        page = b'<a href="vaderSentiment-3.3.2.tar.gz">vaderSentiment-3.3.2.tar.gz</a>'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


def test_doctor_finds_what_answers(real_smp: Smp, server: str, tmp_path: Path) -> None:
    import torch
    import transformers

    (tmp_path / "cache" / "tokens").mkdir(parents=True)
    (tmp_path / "cache" / "tokens" / "file").write_bytes(b"x" * 1000)
    env = {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": server,
        "PIP_INDEX_URL": f"{server}/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_CONFIG_FILE": "/dev/null",
        "SMP_CACHE_DIR": str(tmp_path / "cache"),
        "SMP_DATA_DIR": str(Path.home() / "data"),
        "no_proxy": "127.0.0.1",
    }
    found = real_smp("doctor", "--json", env=env).json
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["transformers"] == transformers.__version__
    assert found["devices"]["threads"] == 1 and found["devices"]["precision"] in ("fp32", "bf16")
    said = found["devices"]["run"]
    assert said.endswith(f", precision {found['devices']['precision']} (auto), 1 thread") and "device " in said
    assert found["network"]["package index"]["detail"].endswith("s, through pip")
    assert found["caches"]["smp"] == {"path": str(tmp_path / "cache"), "files": 1, "bytes": 1000}
    assert found["data_dir"] == "~/data"
    assert {name: answer["answers"] for name, answer in found["network"].items()} == {
        "hub": True,
        "package index": True,
    }


def test_doctor_says_who_does_not_answer(smp: Smp, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    shown = smp("doctor").ok().out
    assert shown.count("doesn't answer") == 2
    assert re.search(r"^ a run takes +device \S.*, precision \S+ \(auto\), \d+ thread", shown, re.MULTILINE)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in smp("doctor").ok().out
