"""The docs site is built with every warning an error: links, anchors, and pages that the navigation leaves out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    for page in ("index.html", "results/index.html", "decisions/index.html", "commands/index.html"):
        assert (tmp_path / "site" / page).is_file()


def test_the_build_refuses_what_leads_nowhere(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as file:
        file.write("\n[a](gone.md), [b](results.md#no-heading)\n")
    (tmp_path / "docs" / "in-no-menu.md").write_text("# In no menu\n", encoding="utf-8")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for planted in ("gone.md", "#no-heading", "in-no-menu.md"):
        assert planted in done.stdout + done.stderr
