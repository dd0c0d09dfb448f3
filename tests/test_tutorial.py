"""docs/tutorial.md: its commands in its order, on pico data and a pico model; only its two YAML files are narrowed."""

from __future__ import annotations

import contextlib
import glob
import io
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smpcli.errors import guarded
from smpcli.main import app

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def commands() -> list[tuple[str, list[str]]]:
    """Each command with the lines that the page shows of it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", TUTORIAL, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_tutorial_from_its_first_command_to_its_last(
    pico: Callable[[str], Path], sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dict(re.findall(r"`(\w+\.yaml)`:\n\n```yaml\n(.*?)^```$", TUTORIAL, flags=re.MULTILINE | re.DOTALL))
    shutil.copy(sentiment.csv, tmp_path / "movies.csv")
    narrowed = {
        "short.yaml": {
            "task: movies": f"task: movies.csv\nmodel: {pico('bert')}\nmax_length: 24",
            "max_steps: 150": "max_steps: 6",
            "batch_size: 32": "batch_size: 8",
        },
        "study.yaml": {"[movies]": "[movies.csv]", "[0.5, 0.9, 0.97]": "[0.9, 0.97]"},
    }
    assert files.keys() == narrowed.keys()
    for name, changes in narrowed.items():
        text = files[name]
        for old, new in changes.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    assert {command.split()[1] for command, _ in commands()} == set(
        "prune eval finetune compare sweep inspect export predict".split()
    )
    for command, shown in commands():
        (program, *arguments) = [
            part for word in shlex.split(command) for part in (sorted(glob.glob(word)) if "*" in word else [word])
        ]
        assert program == "smp"
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = guarded(lambda given=arguments: app(args=given, standalone_mode=False))
        assert code == 0, f"{command}\n{said.getvalue()}"
        # What is shown without a figure in it must really be said: headings, phases, verdicts.
        for line in shown:
            if not re.search(r"\d|^…?$|─", line):
                assert words(line.replace("minilm", str(pico("bert")))) in words(said.getvalue()), command
    assert {path.name for path in tmp_path.iterdir()} >= {"study.svg", "study.html", "reviews.smpmask"}
    # By hand three runs, by the sweep the rest of its grid.
    assert len(list(tmp_path.glob("results/*/result.json"))) == 5


def test_the_tutorial_installs_as_the_readme_does() -> None:
    (install,) = re.findall(r"^```bash\n(.*?)^```$", TUTORIAL, flags=re.MULTILINE | re.DOTALL)
    assert install in (ROOT / "README.md").read_text(encoding="utf-8")
