"""The page: self-contained, whole, and opened in a real browser that clicks what a person clicks."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from handmade import MakeRun
from plotly.offline import get_plotlyjs
from test_bootstrap import write_predictions

from smpcli.comparison.compare import compare
from smpcli.comparison.page import write_page
from smpcli.errors import UserError

ATTACK = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\u2028<!--{{x}}&lt;'
LINK = '<a href="https://example.org">%{x}<b>click</b></a>'
ATTACK += LINK


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, of the machine: no package of the index brings one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    path = os.environ.get("SMP_TEST_BROWSER") or next(
        (found for name in names if (found := shutil.which(name))), None
    )
    if path is None:
        # .ci/run installs one; elsewhere a browser is more than a test may ask for.
        pytest.skip(
            "the page's clicks need Chromium: install it (Debian: apt-get install chromium), or set SMP_TEST_BROWSER"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


Open = Callable[[Path], Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """A page that fails the test when it raises, warns, asks for anything beside itself, or shows a dialog."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900}, offline=True)

    def refuse(dialog: Any) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def watch(path: Path) -> Any:
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("dialog", refuse)
        page.on("request", lambda request: asked.append(request.url))
        asked: list[str] = []
        page.goto(path.as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        return page

    yield watch
    context.close()
    assert complaints == []


@pytest.fixture
def study(tmp_path: Path, make_run: MakeRun) -> Path:
    """dense, smp and movement at 50 and 90 % (the mask is that of 90); another task; an unfinished run."""
    folder = tmp_path / "results"
    for method, sparsity, right in (
        ("dense", 0.0, 90), ("smp", 0.5, 85), ("smp", 0.9, 70), ("movement", 0.5, 80), ("movement", 0.9, 75),
    ):  # fmt: skip
        kept = round(20 * (1 - sparsity))
        pruned = {"run__sparsity": sparsity, "run__remaining": kept / 20, "weights__kept": kept}
        pruned = pruned if sparsity else {}
        run = make_run(
            folder / f"{method}-{sparsity}", run__method=method, metrics__accuracy=right / 100,
            settings={"init": "zero" if method == "smp" else "activation", "lr": 0.02},
            run__seconds=60.0 * right, **pruned,
        )  # fmt: skip
        write_predictions(run, dev=([1] * 100, [1] * right + [0] * (100 - right)))
    make_run(folder / "rte", run__task="rte")
    (folder / "stopped").mkdir()
    (folder / "stopped/settings.yaml").write_text("seed: 1\n")
    return folder


@pytest.fixture
def page(study: Path, tmp_path: Path, open_page: Open) -> Any:
    write_page(compare(study, with_published=True), tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    opened.select_option("#subject", label="sst2 on minilm, prototype head")
    return opened


def column(page: Any, number: int) -> list[str]:
    return [row.locator("td").nth(number).inner_text() for row in page.locator("#rows tbody tr").all()]


def header(page: Any, name: str) -> Any:
    return page.locator("#rows th", has_text=re.compile(rf"^\s*{re.escape(name)}"))


def test_the_table_sorts_both_ways_and_filters(page: Any) -> None:
    headers = [cell.inner_text().strip() for cell in page.locator("#rows th").all()]
    assert headers[:4] == ["method", "settings", "sparsity", "remaining"] and "accuracy %" in headers
    place = headers.index("accuracy %")
    header(page, "accuracy %").locator("button").click()
    values = [float(text.split()[0]) for text in column(page, place)]
    assert len(values) >= 5 and values == sorted(values, reverse=True)
    assert header(page, "accuracy %").get_attribute("aria-sort") == "descending"
    header(page, "accuracy %").locator("button").click()
    assert [float(text.split()[0]) for text in column(page, place)] == values[::-1]
    assert header(page, "accuracy %").get_attribute("aria-sort") == "ascending"

    # 90 s of a hundred, which as text would come before 60; rows without a time, the published ones, stay last.
    header(page, "time").locator("button").click()
    header(page, "time").locator("button").click()
    times = column(page, headers.index("time"))
    assert times[:5] == ["70:00", "75:00", "80:00", "85:00", "90:00"] and set(times[5:]) == {""}
    assert all(text.startswith("†") for text in column(page, 0)[5:])

    page.fill("#search", "Movement")
    assert set(column(page, 0)) == {"movement"}
    page.fill("#search", "")
    assert len(column(page, 0)) == len(times)


def test_the_table_says_what_the_comparison_says(page: Any, study: Path) -> None:
    row = next(row for row in compare(study).rows if row.method == "smp" and row.sparsity == 0.5)
    text = page.locator("#rows tbody tr", has_text="smp").first.inner_text()
    assert "85.00 *" in text and "50 %" in text
    assert f"-5.00 [{row.difference_low * 100:+.1f}, {row.difference_high * 100:+.1f}]" in text  # type: ignore[operator]
    page.select_option("#subject", label="rte on minilm, prototype head")
    assert [name for name in column(page, 0) if "†" not in name] == ["smp"]
    assert page.locator("#problems").inner_text().startswith(str(study / "stopped"))


def hover(page: Any, place: Any) -> str:
    """What stands in a chart's box where the mouse is; Plotly lays a sheet over the marks that takes the mouse."""
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    page.mouse.move(5, 5)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.wait_for_selector(".hoverlayer .hovertext")
    return " ".join(page.locator(".hoverlayer .hovertext").all_text_contents())


def traces(page: Any) -> dict[str, Any]:
    """What Plotly has really drawn, by name: whether it is shown, its values and its look."""
    drawn = page.evaluate(
        """() => document.getElementById("plot")._fullData.filter(trace => trace.showlegend).map(trace => [
            trace.name, {visible: trace.visible, y: trace.y, dash: trace.line.dash, symbol: trace.marker?.symbol}])"""
    )
    return dict(drawn)


def marks(page: Any) -> list[Any]:
    """The marks in the plot, from left to right as drawn."""
    found = [(mark.bounding_box(), mark) for mark in page.locator("#plot .scatterlayer .points path.point").all()]
    return [mark for _, mark in sorted(found, key=lambda pair: pair[0]["x"])]


def middle(mark: Any) -> float:
    box = mark.bounding_box()
    return float(box["x"] + box["width"] / 2)


def test_the_plot_is_drawn_shows_values_and_hides_lines(page: Any) -> None:
    drawn = traces(page)
    assert drawn["smp"]["y"] == [70, 85] and drawn["movement"]["y"] == [75, 80]
    assert drawn["dense"]["dash"] == "dash" and set(drawn["dense"]["y"]) == {90}
    assert len({(trace["dash"], trace["symbol"]) for trace in drawn.values()}) == len(drawn)
    assert page.locator("#plot .scatterlayer path.js-line").count() >= 3

    # The two at 10 % stand a little beside each other.
    texts = [hover(page, mark) for mark in marks(page)[:2]]
    for name, value in (("smp", "70.00"), ("movement", "75.00")):
        (text,) = [text for text in texts if name in text]
        assert "10 % of the weights remain" in text and f"accuracy {value} %" in text

    before = len(marks(page))
    name = page.locator("#plot .legend .traces", has_text=re.compile("^smp$")).locator(".legendtoggle")
    name.click()
    page.wait_for_function("() => document.getElementById('plot')._fullData.some(t => t.visible === 'legendonly')")
    assert [name for name, trace in traces(page).items() if trace["visible"] == "legendonly"] == ["smp"]
    assert len(marks(page)) == before - 2
    page.wait_for_timeout(500)  # a second click within 300 ms would be a double click
    name.click()
    page.wait_for_function("() => document.getElementById('plot')._fullData.every(t => t.visible === true)")
    assert len(marks(page)) == before


def test_the_camera_saves_the_plot_and_no_button_sends_it_anywhere(page: Any, tmp_path: Path) -> None:
    titles = {button.get_attribute("data-title") for button in page.locator(".modebar-btn").all()}
    assert titles == {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
    page.locator("#plot").hover()
    with page.expect_download() as saved:
        page.locator("#plot .modebar-btn").first.click()
    saved.value.save_as(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_axis_changes(page: Any, tmp_path: Path, make_run: MakeRun, open_page: Open) -> None:
    for kept in (1, 2, 10):
        make_run(
            tmp_path / "r" / str(kept), run__sparsity=1 - kept / 20, run__remaining=kept / 20, weights__kept=kept
        )
    write_page(compare(tmp_path / "r"), tmp_path / "axis.html")
    opened = open_page(tmp_path / "axis.html")
    assert opened.is_checked("#log")
    five, ten, fifty = map(middle, marks(opened))
    # log(10/5) against log(50/5), to a pixel of some hundred.
    assert (ten - five) / (fifty - five) == pytest.approx(0.30103, abs=3e-3)
    opened.uncheck("#log")
    opened.wait_for_function("() => document.getElementById('plot')._fullLayout.xaxis.type === 'linear'")
    five, ten, fifty = map(middle, marks(opened))
    assert (ten - five) / (fifty - five) == pytest.approx(5 / 45, abs=3e-3)


def test_the_heat_map_shows_a_run_by_layer_and_type(page: Any) -> None:
    """The mask made by hand: 2 of 20 weights of block 0's query."""
    page.select_option("#masked", label="smp-0.9")
    cells = page.locator("#heat .heatmaplayer .heatmap-label")
    # The matrix, its row, its column, and all.
    assert cells.all_text_contents() == ["10.0"] * 4
    assert page.evaluate("() => document.getElementById('heat')._fullData[0].zmin") == 0
    assert re.match(r"layer 0, query\s*2 of 20 weights \(10 %\)", hover(page, cells.first))
    assert "dense-0.0" not in page.locator("#masked").inner_text()


def test_two_selects_show_what_differs(page: Any) -> None:
    page.select_option("#one", label="smp-0.5")
    page.select_option("#other", label="movement-0.5")
    rows = {
        cells[0]: cells[1:]
        for row in page.locator("#differences tbody tr").all()
        if (cells := [cell.inner_text() for cell in row.locator("td").all()])
    }
    assert rows == {
        "init": ["zero", "activation"], "method": ["smp", "movement"], "metrics.accuracy": ["0.85", "0.8"],
    }  # fmt: skip
    page.select_option("#other", label="smp-0.5")
    assert page.locator("#differences").inner_text() == "Nothing: the same settings and results."


def test_no_text_of_a_run_becomes_part_of_the_page(tmp_path: Path, make_run: MakeRun, open_page: Open) -> None:
    """Names, settings and reasons that try to be scripts are shown as what they are, and nothing of them runs."""
    for name, more in (("a", {}), ("b", {"run__method": "smp"}), ("c", {"run__sparsity": 0.5})):
        settings = {ATTACK: ATTACK, "note": ATTACK + name}
        made = {"run__method": ATTACK, "run__task": ATTACK, "model__name": ATTACK, **more}
        make_run(tmp_path / "r" / f"{name}<img src=x onerror=alert(3)>", settings=settings, **made)
    (tmp_path / "r" / "<script>alert(4)<").mkdir()
    (tmp_path / "r" / "<script>alert(4)<" / "settings.yaml").write_text("a: b\n")
    write_page(compare(tmp_path / "r"), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 3 and "<img" not in text

    opened = open_page(tmp_path / "page.html")
    assert opened.locator("img, main script").count() == 0
    assert "</script><script>alert(1)</script><img src=x" in opened.locator("#rows tbody").inner_text()
    assert ATTACK[:40] in opened.locator("#subject").inner_text()
    # Plotly takes tags and links for markup: here they are letters.
    shown = opened.locator("#plot .legend").text_content() + hover(opened, marks(opened)[0])
    assert "</script><script>alert(1)</script><img src=x" in shown and LINK in shown and "&lt;" in shown
    assert opened.locator("#plot a, #plot image, #heat a").count() == 0
    opened.select_option("#other", index=2)
    assert "<img src=x onerror=alert(3)>" in opened.locator("#differences").inner_text()
    assert "<script>alert(4)<" in opened.locator("#problems").inner_text()


def test_the_page_works_without_any_network_or_other_file(study: Path, tmp_path: Path) -> None:
    write_page(compare(study), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    # Plotly's script names addresses of maps; the policy forbids asking them, and `open_page` sees what is asked.
    library = get_plotlyjs()
    assert library in text
    rest = text.replace(library, "")
    assert not re.findall(r"(?:src|href)=\"(?!data:)", rest)
    assert "http://" not in rest and "https://" not in rest
    assert "default-src 'none'" in rest and len(rest) < 200_000
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert len(json.loads(data[1])["runs"]) == 6
    write_page(compare(study), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_a_damaged_mask_is_said_where_it_would_be(study: Path, tmp_path: Path, open_page: Open) -> None:
    mask = study / "smp-0.9" / "mask.safetensors"
    content = bytearray(mask.read_bytes())
    content[-3] ^= 0xFF  # as long as before
    mask.write_bytes(content)
    write_page(compare(study, tasks=["sst2"]), tmp_path / "page.html")
    opened = open_page(tmp_path / "page.html")
    opened.select_option("#masked", label="smp-0.9")
    assert "damaged" in opened.locator("#unmasked").inner_text()


def test_a_page_that_cannot_be_made_leaves_nothing(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't write.*--html"):
        write_page(compare(study), tmp_path / "file" / "page.html")
    with pytest.raises(UserError, match="no finished runs for a page"):
        write_page(compare(study / "stopped"), tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
