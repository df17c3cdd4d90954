"""A study in MLflow's pages, looked at with a real browser: what a person came for is there, and names stay names.

Screenshots lie in each test's ``tmp_path``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.autotune.browser.conftest import Browse, Shown
from tests.autotune.shown_study import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.slow]
FIGURES = "[...document.images].filter(image => image.src.includes('/get-artifact?'))"
LOADED = f"() => {FIGURES}.filter(image => image.naturalWidth > 0).length === 8"
PLACES = FIGURES + ".map(image => image.getBoundingClientRect()).map(place => [place.left, place.right, place.height])"
BRIGHTNESS = """element => {
  let shown = element;
  const parts = node => getComputedStyle(node).backgroundColor.match(/[\\d.]+/g).map(Number);
  while (shown.parentElement && parts(shown)[3] === 0) { shown = shown.parentElement; }
  const mean = numbers => (numbers[0] + numbers[1] + numbers[2]) / 3;
  return [mean(getComputedStyle(element).color.match(/[\\d.]+/g).map(Number)), mean(parts(shown))];
}"""


def unharmed(page: Any) -> bool:
    """Whether nothing of a hostile name has run, in the page or in a frame of it."""
    return all(frame.evaluate("window.harmed === undefined") for frame in page.frames)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_shows_the_front_what_was_selected_and_the_members(
    dark: bool, browse: Browse, shown: Shown, tmp_path: Path
) -> None:
    browser = browse(dark=dark)
    page = browser.open(shown.page)
    head = page.locator("strong").filter(has_text="Selected: trial 2, full b32")
    head.wait_for()
    assert head.locator("..").inner_text().startswith("Selected: trial 2, full b32 · accuracy 0.8300 · device 2.50 GB")
    page.screenshot(path=tmp_path / "folded.png")
    page.get_by_role("button", name="Expand description").click()
    page.wait_for_function(LOADED)
    page.screenshot(path=tmp_path / "page.png")
    why = page.get_by_text("has the highest validation accuracy of 3 members of the front")
    left, right = why.evaluate(
        "element => [element.getBoundingClientRect().left, element.getBoundingClientRect().right]"
    )
    for image_left, image_right, height in page.evaluate(f"() => {PLACES}"):
        assert left - 1 <= image_left < image_right <= right + 1, "it fits the width of the text"
        assert height > 100, "a figure of three bars is the lowest"
    rows = page.locator("table").filter(has_text="device MB").locator("tbody tr")
    numbers = [row.locator("td").first.inner_text().strip() for row in rows.all()]
    assert numbers == ["2", "1", "0"], "the best first"
    assert "0.8300" in rows.first.inner_text()
    assert page.get_by_role("heading", name="Parallel coordinates").is_visible()
    text, background = why.evaluate(BRIGHTNESS)
    assert (text > 180 and background < 60) if dark else (text < 80 and background > 200)


def test_a_hostile_name_is_text_and_nothing_is_fetched_from_elsewhere(browse: Browse, shown: Shown) -> None:
    browser = browse()
    page = browser.open(shown.page)
    page.get_by_role("button", name="Expand description").click()
    page.wait_for_function(LOADED)
    cell = page.locator("td").filter(has_text="onerror").first
    assert cell.inner_text().strip().startswith(HOSTILE)
    assert page.get_by_role("heading", name=HOSTILE).count() == 1, "the study's own name"
    assert page.locator("img[src='x']").count() == 0
    assert unharmed(page)
    sources = page.evaluate(
        "() => [...document.querySelectorAll('td a, p a, h3 a, p img, td img')].map(element => element.href || element.src)"
    )
    assert len(sources) >= 5
    assert all(source.startswith(f"{shown.server}/") for source in sources), sources
    assert browser.blocked == [], "the page asked for something elsewhere"
    assert any("page%2Ffront.svg" in address for address in browser.requested)


def test_the_front_opens_larger_and_interactive(browse: Browse, shown: Shown, tmp_path: Path) -> None:
    browser = browse()
    page = browser.open(shown.page)
    with browser.context.expect_page() as opened:
        page.get_by_role("link", name="The accuracy-memory front, larger").click()
    larger = opened.value
    marks = larger.frame_locator("iframe").locator(".mark[data-trial]")
    marks.first.wait_for()
    trials = {mark.get_attribute("data-trial") for mark in marks.all()}
    assert trials == {"0", "1", "2", "3", "4"}, "three on the front, one stopped, one over the cap"
    larger.screenshot(path=tmp_path / "larger.png")
    assert larger.get_by_role("link", name="Runs").first.is_visible(), "in the menu of training"
    assert unharmed(larger)
    assert browser.blocked == []


def test_trials_stand_in_a_table_with_the_columns_that_matter(browse: Browse, shown: Shown, tmp_path: Path) -> None:
    browser = browse()
    page = browser.open(shown.page)
    with browser.context.expect_page() as opened:
        page.get_by_role("link", name="All trials as a table").click()
    table = opened.value
    table.locator(".ag-center-cols-container [role=row]").nth(4).wait_for()
    heads = table.locator(".ag-header-cell[col-id]").evaluate_all("cells => cells.map(cell => cell.innerText.trim())")
    for column in ("metric", "peak_device_mb", "peak_allocated_mb", "seconds", "status", "on_front", "plan"):
        assert column in heads, heads
    table.screenshot(path=tmp_path / "table.png")
    cells = table.locator(".ag-center-cols-container [role=row]").first.inner_text()
    assert "0.83" in cells, "the best metric first"
    assert unharmed(table)


def test_a_trial_has_its_curves(browse: Browse, shown: Shown, tmp_path: Path) -> None:
    browser = browse()
    address = f"{shown.server}/#/experiments/{shown.experiment_id}/runs/{shown.best}/model-metrics?workflowType=machine_learning"
    page = browser.open(address)
    lines = page.locator(".js-plotly-plot .scatterlayer path.js-line")
    lines.nth(2).wait_for()
    page.screenshot(path=tmp_path / "curves.png")
    drawn = lines.evaluate_all(
        "lines => lines.map(line => [line.getBoundingClientRect().top, line.getAttribute('d').split('L').length])"
    )
    assert all(0 < top < 700 for top, _ in drawn[:3]), "three curves on the first screen"
    assert max(points for _, points in drawn[:3]) > 40, "memory over time, which plotly simplifies"
    for name in ("memory_device_mb", "train_loss", "valid_accuracy"):
        assert page.get_by_text(name, exact=True).first.is_visible()
    assert browser.blocked == []
