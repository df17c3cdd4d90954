"""``autotune ui`` in a browser that has never been there: everything is seen at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.autotune.browser.conftest import Browse
from tests.autotune.shown_study import make_folder, write_study
from tests.autotune.ui_process import running_ui

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.usefixtures("no_mlflow_settings")]


def test_the_page_is_unfolded_and_nothing_lies_over_it(browse: Browse, tmp_path: Path) -> None:
    study = make_folder(tmp_path / "study")
    write_study(f"sqlite:///{study / 'mlflow.db'}", study)
    with running_ui(study) as (_, address):
        browser = browse(fresh=True)
        page = browser.open(address)
        picture = page.locator("img[src*='page%2Ffront.svg']")
        picture.wait_for()
        page.wait_for_function(
            "() => [...document.images].some(image => image.naturalWidth > 0 && image.src.includes('front.svg'))"
        )
        box = picture.bounding_box()
        assert box is not None
        # in a window as high as a laptop shows one; where fonts are wide, the hostile name takes two lines
        assert box["y"] + box["height"] < 850, "the whole front is on the first screen"
        assert box["width"] > 600, "it has the width of the page"
        seen = page.evaluate(
            "([x, y]) => document.elementFromPoint(x, y).tagName",
            [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2],
        )
        assert seen == "IMG", "nothing lies over it"
        assert not page.get_by_role("button", name="Expand description").is_visible()
        page.screenshot(path=tmp_path / "ui.png")
        assert browser.blocked == []
