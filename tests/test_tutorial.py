"""docs/tutorial.md: its commands in its order; only its two YAML files are narrowed, to pico data and model."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documents import commands_of, files_of, narrow, page, run_commands

TUTORIAL = page("tutorial.md")


def test_the_tutorial_from_its_first_command_to_its_last(
    pico: Callable[[str], Path], sentiment: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(sentiment.csv, tmp_path / "movies.csv")
    changes = {
        "short.yaml": {
            "task: movies": f"task: movies.csv\nmodel: {pico('bert')}\nmax_length: 24",
            "max_steps: 150": "max_steps: 6",
            "batch_size: 32": "batch_size: 8",
        },
        "study.yaml": {"[movies]": "[movies.csv]", "[0.5, 0.9, 0.97]": "[0.9, 0.97]"},
    }
    files = files_of(TUTORIAL)
    assert files.keys() == changes.keys()
    for name, text in files.items():
        (tmp_path / name).write_text(narrow(text, changes[name]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    assert {command.split()[1] for command, _ in commands_of(TUTORIAL)} == set(
        "prune eval finetune compare sweep inspect export predict".split()
    )
    run_commands(TUTORIAL, {"minilm": str(pico("bert"))})
    assert {path.name for path in tmp_path.iterdir()} >= {"study.svg", "study.html", "reviews.smpmask"}
    # By hand three runs, by the sweep the rest of its grid.
    assert len(list(tmp_path.glob("results/*/result.json"))) == 5


def test_the_tutorial_installs_as_the_readme_does() -> None:
    (install,) = re.findall(r"^```bash\n(.*?)^```$", TUTORIAL, flags=re.MULTILINE | re.DOTALL)
    assert install in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
