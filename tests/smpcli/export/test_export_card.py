"""The model card: figures of the run, and text that stays text."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from smpcli.export.card import fenced, text
from smpcli.runs.maskfile import read_masks

MakeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def card(finished: MakeRun, export_here: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = export_here(finished(), "hf", output=tmp_path_factory.mktemp("card") / "folder").path
    return folder / "README.md"


def parts(card: Path) -> tuple[dict[str, Any], str]:
    _, front, body = card.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_front_matter_has_the_metrics_as_the_hub_reads_them(finished: MakeRun, card: Path) -> None:
    from huggingface_hub import ModelCard

    result = json.loads((finished() / "result.json").read_text())
    # The hub's own reader refuses what isn't in model-index form.
    found = ModelCard.load(card).data
    assert found.library_name == "transformers" and found.pipeline_tag == "text-classification"
    assert {row.metric_type: row.metric_value for row in found.eval_results} == result["metrics"]
    assert {row.dataset_name for row in found.eval_results} == {"sentiment"}
    # The base is a folder here, which the hub doesn't know.
    assert found.base_model is None


def test_the_body_says_what_was_done(finished: MakeRun, card: Path) -> None:
    result = json.loads((finished() / "result.json").read_text())
    _, body = parts(card)
    size = (card.parent / "model.safetensors").stat().st_size
    for line in (
        "https://arxiv.org/abs/2210.06210",
        f"{result['weights']['kept']:,} of {result['weights']['prunable']:,} weights",
        f"| accuracy | {result['metrics']['accuracy']:.4f} |",
        "| sparsity | 80.00% |",
        f"| size of the weights | {size:,} bytes |",
        result["run"]["command"],
        "Labels: 0: negative, 1: positive.",
        "![Remaining weights of each matrix by layer](density.png)",
    ):
        assert line in body, line
    assert re.search(r"\| latency \| \d+\.\d ms \(one text of 32 tokens on a CPU, median of 20, .*thread", body)
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", body, re.DOTALL)[1])  # type: ignore[index]
    assert settings["sparsity"] == 0.8 and settings["max_steps"] == 3 and "data_dir" not in settings


def test_the_plot_is_a_picture_of_the_densities(
    finished: MakeRun, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = (card.parent / "density.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", picture[16:24]) == (960, 480)
    from matplotlib.axes import Axes

    from smpcli.evaluation.recompute import reopen
    from smpcli.export.card import _densities
    from smpcli.export.plot import plot_density

    drawn: dict[str, list[float]] = {}
    plot = Axes.plot

    def noted(self: Axes, x: Any, y: Any, **named: Any) -> Any:
        drawn[named["label"]] = list(y)
        return plot(self, x, y, **named)

    monkeypatch.setattr(Axes, "plot", noted)
    plot_density(_densities(reopen(finished())), tmp_path / "again.png")
    masks = read_masks(finished() / "mask.safetensors")
    for name, mask in masks.items():
        layer, kind = re.fullmatch(r"bert\.encoder\.layer\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
        assert drawn[kind][int(layer)] == pytest.approx(100 * int(mask.sum()) / mask.numel())
    assert sum(map(len, drawn.values())) == len(masks)


HOSTILE = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](http://a.b/c.png)",
    "a | b |\n| c",
    "# heading\n\n- list",
    "`code` *bold* _it_ ~~s~~ $x$",
    "www.example.org user@example.org",
    "&lt;b&gt; &#60;",
    "\u202etxt\x00\x1b[31m",
    "---\nlicense: mit",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_text_from_elsewhere_does_nothing(value: str) -> None:
    """Rendered by a Markdown library with HTML and links allowed: one paragraph of plain text, that of the value."""
    from html import unescape

    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable(["table", "strikethrough"])
    rendered = markdown.render(text(value)).strip()
    inside = re.fullmatch(r"<p>(.*)</p>", rendered, re.DOTALL)
    assert inside is not None and "<" not in inside[1]
    printable = "".join(char if char.isprintable() else " " for char in " ".join(value.split()))
    assert unescape(inside[1]) == printable.strip()
    row = markdown.render(f"| a | b |\n| --- | --- |\n| {text(value)} | end |")
    assert row.count("<td>") == 2 and "<td>end</td>" in row


@pytest.mark.parametrize("content", ["plain", "```\n# out", "````", "a ``` b ```` c", "<b>`</b>"])
def test_a_code_block_ends_where_it_should(content: str) -> None:
    from markdown_it import MarkdownIt

    tokens = MarkdownIt().parse(fenced(content, "yaml") + "\n\nafter")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]
    assert tokens[0].content == content + "\n" and tokens[0].info == "yaml"
