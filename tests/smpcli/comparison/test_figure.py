"""The figure: what it draws, in three formats, and that a grey print tells lines apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.colors
import matplotlib.figure
import numpy as np
import pytest
from handmade import MakeRun

from smpcli.comparison.compare import compare
from smpcli.comparison.figure import draw, lines_of
from smpcli.errors import UserError


def make(make_run: MakeRun, folder: Path, method: str, sparsity: float, accuracy: float, **more: object) -> None:
    kept = round((1 - sparsity) * 1000)
    make_run(
        folder, run__method=method, run__sparsity=sparsity, run__remaining=kept / 1000, metrics__accuracy=accuracy,
        weights__prunable=1000, weights__total=1000, weights__kept=kept, **more,
    )  # fmt: skip


@pytest.fixture
def study(tmp_path: Path, make_run: MakeRun) -> Path:
    folder = tmp_path / "results"
    for seed in (0, 1):
        make(make_run, folder / f"d{seed}", "dense", 0.0, 0.88 + seed / 50, run__seed=seed, files={})
        for sparsity in (0.5, 0.9, 0.97):
            for place, method in enumerate(("smp", "movement", "soft-movement", "magnitude")):
                accuracy = 0.9 - sparsity / 10 - place / 50 + seed / 100
                make(make_run, folder / f"{method}{sparsity}{seed}", method, sparsity, accuracy, run__seed=seed)
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """The figures that are saved, as matplotlib knows them."""
    found = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure: matplotlib.figure.Figure, *args: Any, **named: Any) -> None:
        found.append(figure)
        save(figure, *args, **named)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return found


def test_lines_run_from_few_weights_to_many_with_their_spread(study: Path) -> None:
    lines = {line.name: line for line in lines_of(compare(study).rows)}
    assert set(lines) == {"dense", "smp", "movement", "soft-movement", "magnitude"}
    assert lines["smp"].xs == [0.03, 0.1, 0.5]
    assert lines["smp"].ys == pytest.approx([0.808, 0.815, 0.855])
    assert lines["smp"].spread == pytest.approx([0.01 / 2**0.5] * 3)


def test_what_is_drawn(study: Path, tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    draw(compare(study), tmp_path / "out.png")
    (axes,) = drawn[0].axes
    assert axes.get_xscale() == "log"  # 3 to 50 %
    assert axes.get_ylabel() == "accuracy %" and axes.get_xlabel().startswith("remaining weights")
    assert axes.get_title("left") == "sst2 on minilm, prototype head"
    (dense,) = [line for line in axes.lines if line.get_label() == "dense"]
    assert dense.get_linestyle() == "--" and np.allclose(dense.get_ydata(), 89.0)
    bars: dict[str, Any] = {str(bar.get_label()): bar for bar in axes.containers}
    assert set(bars) == {"smp", "movement", "soft-movement", "magnitude"}
    x, y = bars["smp"].lines[0].get_data()
    assert np.allclose(x, [0.03, 0.1, 0.5], rtol=0.06) and np.allclose(y, [80.8, 81.5, 85.5])
    ends = np.array([segment[:, 1] for segment in bars["smp"].lines[2][0].get_segments()])
    assert np.allclose(ends[:, 1] - ends[:, 0], 2 * 100 * 0.01 / 2**0.5)
    (legend,) = drawn[0].legends
    assert {text.get_text() for text in legend.get_texts()} == set(bars) | {"dense"}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["3 %", "10 %", "50 %"]


def test_a_narrow_range_has_a_linear_axis(
    tmp_path: Path, make_run: MakeRun, drawn: list[matplotlib.figure.Figure]
) -> None:
    for sparsity in (0.3, 0.5):
        make(make_run, tmp_path / "r" / str(sparsity), "smp", sparsity, 0.8)
    draw(compare(tmp_path / "r"), tmp_path / "out.svg")
    assert drawn[0].axes[0].get_xscale() == "linear"


def test_lines_differ_without_colour(study: Path, tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    """Marker and dashes of any two lines differ, and every line is dark enough on white (WCAG: 3 to 1)."""
    draw(compare(study), tmp_path / "out.png")
    bars: list[Any] = drawn[0].axes[0].containers
    lines = [bar.lines[0] for bar in bars]
    assert len({line.get_marker() for line in lines}) == len(lines) == 4
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == len(lines)
    for line in lines:
        channels = np.array(matplotlib.colors.to_rgb(line.get_color()))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3


def test_each_task_has_a_panel_and_published_figures_are_hollow(
    study: Path, tmp_path: Path, make_run: MakeRun, drawn: list[matplotlib.figure.Figure]
) -> None:
    make(make_run, study / "qqp", "smp", 0.9, 0.8, run__task="qqp")
    draw(compare(study, with_published=True), tmp_path / "out.pdf")
    titles = [axes.get_title("left") for axes in drawn[0].axes]
    assert titles == ["qqp on minilm, prototype head", "sst2 on minilm, prototype head"]
    bars: list[Any] = drawn[0].axes[0].containers
    published = [bar for bar in bars if "published" in bar.get_label()]
    assert published and len(published) == len(bars) - 1
    assert {bar.lines[0].get_markerfacecolor() for bar in published} == {"white"}


def test_models_that_are_not_pruned_are_level_lines_apart_from_each_other(
    study: Path, tmp_path: Path, drawn: list[matplotlib.figure.Figure]
) -> None:
    draw(compare(study, with_published=True), tmp_path / "out.pdf")
    lines: list[Any] = [line for line in drawn[0].axes[0].lines if line.get_linestyle() == "--"]
    level = {line.get_label(): line for line in lines if set(np.diff(line.get_ydata())) == {0}}
    # Dense of the runs, and the three.
    assert sorted(line.get_ydata()[0] for name, line in level.items() if "small model" in name) == (
        pytest.approx([91.2, 91.3, 92.3])
    )
    assert len({str(line._unscaled_dash_pattern) for line in level.values()}) == len(level) == 4


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89P")]
)
def test_formats_are_what_they_say_and_the_same_every_time(
    study: Path, tmp_path: Path, suffix: str, start: bytes
) -> None:
    found = compare(study)
    for name in ("one", "two"):
        draw(found, tmp_path / f"{name}.{suffix}")
    content = (tmp_path / f"one.{suffix}").read_bytes()
    assert content.startswith(start)
    assert content == (tmp_path / f"two.{suffix}").read_bytes()


def test_names_are_text(tmp_path: Path, make_run: MakeRun) -> None:
    """Neither mathematics nor markup: a $ or a < in a name is one."""
    make_run(tmp_path / "r/a", run__method="<b>&$x_1$\x1b", run__task="$\\frac{")
    draw(compare(tmp_path / "r"), tmp_path / "out.svg")
    draw(compare(tmp_path / "r"), tmp_path / "out.pdf")
    text = (tmp_path / "out.svg").read_text(encoding="utf-8")
    assert "<b>" not in text and "\x1b" not in text


@pytest.mark.parametrize("name", ["out", "out.jpg", "out.png.txt"])
def test_another_suffix_is_refused_and_nothing_is_written(study: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
        draw(compare(study), tmp_path / "plots" / name)
    assert not (tmp_path / "plots").exists()


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/settings.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match="no finished runs to plot"):
        draw(compare(tmp_path), tmp_path / "out.png")


def test_a_figure_that_fails_leaves_the_old_one(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.png").write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", full)
    with pytest.raises(UserError, match=r"No space left.*--plot"):
        draw(compare(study), tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == b"old"
