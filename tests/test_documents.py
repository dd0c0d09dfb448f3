"""README, CONTRIBUTING and docs say what is so: commands exist, code runs, settings and links are there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import links
import pytest
import torch
from torch import nn

from pruners.base import Pruner
from pruners.masking import refresh
from pruners.masks.layer import MaskedLayer
from smpcli.main import app
from smpcli.settings import read_recipe, recipe_names, resolve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    # All fences in their order: the end of a block isn't the beginning of another.
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [content for given, content in found if given == language]


def test_ci_runs_the_second_block_of_the_readme_as_it_stands(tmp_path: Path) -> None:
    # The script in a folder of its own, with a README whose second block leaves a trace.
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((ROOT / ".ci" / "run").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "README.md").write_text(
        "```bash\ntouch one\n```\n```bash\ntouch two\ntouch three\n```\n", encoding="utf-8"
    )
    subprocess.run(["bash", ".ci/run"], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["README.md", "three", "two"]


def test_the_first_two_blocks_set_up_run_and_test() -> None:
    run, test = blocks(README, "bash")[:2]
    assert "smp prune --method smp --task movies --sparsity 0.9" in run
    assert "python -m pytest" in test
    for block in (run, test):
        assert block.startswith("python3 -m venv .venv")
        assert all(" -c constraints.txt " in line for line in block.splitlines() if "pip install" in line)


def commands() -> list[str]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found += re.findall(r"^smp ([a-z]+)", "\n".join(blocks(text, "bash") + blocks(text, "")), flags=re.MULTILINE)
        found += re.findall(r"`smp ([a-z]+)", text)
    return sorted(set(found))


def test_every_command_that_is_named_exists() -> None:
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert commands()
    assert set(commands()) <= known


def test_the_command_reference_is_that_of_the_program(tmp_path: Path) -> None:
    """docs/commands.md, made again on a narrow coloured terminal: neither may show."""
    command = [*"-m typer smpcli.main utils docs --name smp --title".split(), "Commands and flags", "--output"]
    surroundings = os.environ | {"COLUMNS": "40", "TERMINAL_WIDTH": "40", "FORCE_COLOR": "1"}
    subprocess.run([sys.executable, *command, tmp_path / "made.md"], cwd=ROOT, env=surroundings, check=True)
    again = f"make it again: python {shlex.join(command)} docs/commands.md"
    assert (tmp_path / "made.md").read_text() == (ROOT / "docs" / "commands.md").read_text(), again


def test_no_command_is_cut_short_in_a_list_of_commands() -> None:
    """typer shows the first sentence there, and "..." after 45 characters (in the terminal, after some 60)."""
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    names = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    names |= {"train", "infer"}
    found = re.findall(r"^\* `([a-z]+)`: (.*)$", text, flags=re.MULTILINE)
    listed = [sentence for name, sentence in found if name in names]
    assert len(listed) == len(names)
    assert [text for text in listed if not text.endswith(".") or text.endswith("...")] == []


@pytest.mark.parametrize("page", links.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    assert links.broken(page) == []


def test_the_link_check_sees_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `b`, c\n\n## Two\n\n## Two\n\n```\n# no heading\n```\n", encoding="utf-8")
    good = ["other.md", "other.md#a-b-c", "other.md#two-1", "#here", "https://there.example/x", "mailto:a@b.example"]
    bad = ["gone.md", "other.md#two-2", "other.md#no-heading", "#nowhere"]
    text = "".join(f"[x]({link})\n" for link in [*good, *bad])
    (tmp_path / "page.md").write_text(f"# Here\n{text}`[x](code.md)`\n```\n[x](block.md)\n```\n", encoding="utf-8")
    assert links.broken(tmp_path / "page.md") == bad


def test_the_method_in_the_readme_works() -> None:
    (code,) = [block for block in blocks(README, "python") if "class RowWise" in block]
    names: dict[str, type[Pruner]] = {}
    exec(code, names)
    pruner = names["RowWise"]()
    layers = [MaskedLayer(f"layer.{index}", "dense", nn.Linear(8, 5)) for index in range(2)]
    refresh(pruner, layers, 0.25)
    assert [int(layer.mask.sum()) for layer in layers] == [10, 10]
    assert torch.equal(layers[0].effective == 0, ~layers[0].mask)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_resolve(name: str) -> None:
    assert read_recipe(name)
    assert resolve(recipe=name, flags={"task": "sst2"}).flat()["task"] == "sst2"


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_say_what_they_do(name: str) -> None:
    from smpcli.catalogue import list_recipes

    assert next(entry["description"] for entry in list_recipes() if entry["name"] == name)


def test_commands_of_results_pages_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `smp prune` line of docs/results.md, of its notes and of docs/claims.md is a valid command line."""
    from smpcli.reporting import guarded

    pages = [ROOT / "docs" / "results.md", ROOT / "docs" / "claims.md", *(ROOT / "docs" / "results").glob("*.md")]
    found = [block for page in pages for block in blocks(page.read_text(encoding="utf-8"), "bash")]
    lines = [line for block in found for line in block.splitlines()]
    prunes = [shlex.split(line.split("#")[0]) for line in lines if line.startswith("smp prune ")]
    assert prunes
    # A folder as benchmarks/hold_out.py makes it, with two rows a file; no dev row is trained on.
    monkeypatch.chdir(tmp_path)
    rows = {
        "SST-2": "sentence\tlabel\ngood {0}\t1\nbad {0}\t0\n",
        "STS-B": "sentence1\tsentence2\tscore\na {0}\tb\t1.5\na {0}\ta\t5\n",
    }
    for name, text in rows.items():
        (tmp_path / "held-out" / name).mkdir(parents=True)
        for split in ("train", "dev"):
            (tmp_path / "held-out" / name / f"{split}.tsv").write_text(text.format(split), encoding="utf-8")
    for words in prunes:
        assert "--task" in words
        # The parser refuses unknown flags and values; --dry-run does the rest without a download.
        assert guarded(partial(app, args=[*words[1:], "--dry-run", "--json"], standalone_mode=False)) == 0
