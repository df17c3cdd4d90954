"""The report's files: all of them, offline, with every name as text, whatever a record holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.outcome import EpochReport, InferenceFigures, MemoryFigures, Status, TrialRecord
from autotune.report import points_from, select, write_report
from autotune.report.figures import Chart
from autotune.report.lettering import clean, drawable, fit, width, wrap
from autotune.report.page import Row, page, table
from autotune.report.palette import DARK, LIGHT
from autotune.report.svg import svg_file, to_svg
from autotune.report.writing import charts
from tests.autotune._records import refusal, trial

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quotes\" 'and' ]]> $x_"
ODD = [EVIL, "日本 🙂 👩‍👧 é", "\u202eדוגמה\u202c", "\x00\x07\n\t\udce9", "w" * 500, "", " "]
NAMES = ["front", "memory_parts", "predicted", "hypervolume", "importance", "parallel", "epochs", "memory_over_time"]


class Reader(HTMLParser):
    """What a page is made of, and the texts in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def loads(text: str) -> list[str]:
    """Everything in a page that a browser would fetch."""
    read = Reader(text)
    found = [
        value
        for _, name, value in read.attributes
        if name in ("src", "href", "srcset", "data", "poster", "action", "xlink:href")
    ]
    return [*found, *re.findall(r"url\([^)]*\)|@import[^;]*", text), *re.findall(r"https?://[^\s\"'<]+", text)]


def records(count: int = 6) -> list[TrialRecord]:
    return [
        trial(
            number, 0.5 + number / 100, 10**8 * (number + 1), params={"method": "sherl", "rate": number / 7},
            details={"peak_parts": {"weights": 10**7}}, memory_over_time=((0.0, 10**8), (2.0, 3 * 10**8)),
        )
        for number in range(count)
    ]  # fmt: skip


def test_the_page_and_every_figure_load_nothing_and_stay_small(tmp_path: Path) -> None:
    found = records()
    paths = write_report(tmp_path, found, {"name": "n", "memory_cap": 10**9}, refusals=[refusal(10**9, 2 * 10**9)])
    pages = [path for path in paths.all() if path.suffix == ".html"]
    assert len(pages) == 1 + len(NAMES)
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert loads(text) == []
        assert "default-src 'none'" in text
        assert len(text) < 400_000
    assert re.sub("http://www.w3.org/2000/svg", "", paths.front_svg.read_text()).count("http") == 0


def test_the_page_opens_on_the_finding_and_the_choice_and_holds_all_figures(tmp_path: Path) -> None:
    found = records()
    selection = select(points_from(found, metric_name="accuracy"))
    cap = {"name": "reviews", "metric": "accuracy", "memory_cap": 2 * 10**9}
    paths = write_report(tmp_path, found, cap, selection=selection, refusals=[refusal(10**9, 3 * 10**9)])
    text = paths.report_html.read_text(encoding="utf-8")
    read = Reader(text)
    order = [
        "6 of 6 trials are on the front", "No trial's device peak was over the cap of 2.00 GB", "1 configuration was refused",
        "Unconfirmed", "Selected: Trial 5",
    ]  # fmt: skip
    places = [read.text.index(words) for words in order]
    assert places == sorted(places)
    assert max(places) < read.text.index("The front, best first")
    assert read.tags["figure"] == read.tags["figcaption"] == read.tags["svg"] == len(NAMES)
    assert [value for tag, name, value in read.attributes if (tag, name) == ("figure", "id")] == NAMES
    assert read.tags["tr"] == (1 + 6) + (1 + 1)
    assert [one.name for one in paths.figures] == NAMES
    assert paths.figures[0].png == paths.front_png
    assert len(set(paths.all())) == len(paths.all())
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(paths.all())


@pytest.mark.parametrize("name", ODD)
def test_names_stay_text(name: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "test_metrics": {name: 0.5},
        "reason": name,
        "params": {name or "p": name, "lora.rank": 3},
    }
    method = {"name": name, "insertion": name, "start_layer": -1}
    found = [
        trial(number, 0.5, 10**8, method=method, details={"peak_parts": {name: 5}}, **values) for number in range(2)
    ]
    peak = MemoryFigures(allocated=10**8, device=10**9, meter=name)
    found = [replace(one, outcome=replace(one.outcome, peak=peak)) for one in found if one.outcome]
    about = {"name": name, "model": name, "metric": name or "m", "memory_cap": 10**9}
    selection = select(points_from(found, metric_name=name))
    paths = write_report(tmp_path, found, about, selection=selection, refusals=[refusal(5, 6, name=name, reason=name)])
    for path in paths.all():
        assert path.stat().st_size > 0
        if path.suffix == ".html":
            text = path.read_text(encoding="utf-8")
            read = Reader(text)
            assert read.tags["script"] == 1
            assert "img" not in read.tags
            assert not [attribute for _, attribute, _ in read.attributes if attribute.startswith("on")]
            assert loads(text) == []
            assert "\u202e" not in text
    json.loads(paths.front_json.read_text(encoding="utf-8"))
    ElementTree.parse(paths.front_svg)
    if name == EVIL:
        assert "alert(1)" in Reader(paths.report_html.read_text()).text  # shown, as text


figures_of_any_size = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(-100, 100))
params = st.dictionaries(
    st.sampled_from(["method", "a.rate", "b.rate", "batch_size", "x"]),
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
    ),
    max_size=5,
)
peaks = st.none() | st.builds(
    MemoryFigures,
    allocated=st.integers(0, 2**45),
    device=st.integers(0, 2**45),
    reserved=st.none() | st.integers(0, 2**45),
    meter=st.sampled_from(["nvml", "process private bytes", ""]),
)
ended = st.builds(
    lambda metric, peak, predicted, status, given, epochs, held, confirmed: replace(
        trial(0, metric, params=given, status=status, confirmed=confirmed, epochs=0),
        outcome=replace(
            trial(0, metric, status=status, reason="why").outcome,  # type: ignore[type-var]  # it has one
            peak=peak, predicted=predicted, epochs=epochs, memory_over_time=held,
        ),
    ),
    figures_of_any_size, peaks, peaks, st.sampled_from([status for status in Status if status is not Status.REFUSED]), params,
    st.lists(
        st.builds(
            EpochReport, epoch=st.integers(1, 50), train_loss=st.floats(), seconds=st.floats(0, 100),
            metrics=st.dictionaries(st.just("accuracy"), st.floats(), max_size=1),
        ), max_size=3,
    ).map(tuple),
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 2**45)), max_size=4).map(tuple),
    st.lists(st.floats(-1e6, 1e6), max_size=3).map(tuple),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ended, max_size=5), st.none() | st.integers(1, 2**46), st.lists(st.integers(0, 2**46), max_size=3))
def test_any_record_is_drawn(found: list[TrialRecord], cap: int | None, predicted: list[int]) -> None:
    numbered = [replace(record, number=number) for number, record in enumerate(found)]
    points = points_from(numbered, metric_name="accuracy")
    refused = [refusal(size, size + 10) for size in predicted]
    drawn = charts(numbered, points, {"memory_cap": cap}, refusals=refused, ended={0: 5.0})
    assert [chart.name for chart in drawn] == NAMES
    for chart in drawn:
        text = svg_file(chart.scene)
        ElementTree.fromstring(text)
        assert not re.search(r'="[^"]*\b(nan|inf)\b', text)
        assert chart.caption


def test_a_running_trial_is_left_out(tmp_path: Path) -> None:
    paths = write_report(tmp_path, [trial(0), replace(trial(1), outcome=None)], {})
    assert json.loads(paths.front_json.read_text())["trials"] == {"complete": 1}


def test_inference_figures_reach_the_json(tmp_path: Path) -> None:
    peak = MemoryFigures(allocated=1, device=2, meter="m")
    answered = InferenceFigures(
        peak=peak, latency_seconds=0.1, rows_per_second=9.0, batch_rows=4, threads=1, device="cpu"
    )
    paths = write_report(tmp_path, [replace(trial(0), inference=answered)], {})
    assert json.loads(paths.front_json.read_text())["front"][0]["inference"]["latency_seconds"] == 0.1


def test_tables_sort_by_value_and_missing_values_have_none() -> None:
    text = table([("a", True), ("b", False)], [Row(cells=[(1.5, "1.5"), "x"], trial=3), Row(cells=[(None, "–"), EVIL])])
    read = Reader(text)
    assert [value for _, name, value in read.attributes if name == "data-v"] == ["1.5", ""]
    assert ("tr", "data-trial", "3") in read.attributes
    assert read.tags["button"] == 2


def test_colours_are_there_for_light_and_dark_and_all_are_used_by_classes() -> None:
    assert LIGHT.keys() == DARK.keys()
    text = page("t", "")
    assert "prefers-color-scheme:dark" in text
    assert all(f"--{role}:{color}" in text for palette in (LIGHT, DARK) for role, color in palette.items())
    assert all(f".f-{role}{{" in text for role in LIGHT)


def luminance(color: str) -> float:
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_words_can_be_read_on_paper(palette: dict[str, str]) -> None:
    for role, least in (("ink", 12), ("muted", 5.5), ("accent", 4.5), ("cap", 4.5), ("warn", 3), ("grey", 3)):
        light, dark = sorted((luminance(palette[role]), luminance(palette["paper"])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= least, role


def test_marks_carry_their_trial_and_their_words() -> None:
    chart: Chart = charts(records(), points_from(records()), {})[0]
    read = Reader(to_svg(chart.scene))
    assert {value for _, name, value in read.attributes if name == "data-trial"} == {str(number) for number in range(6)}
    assert read.tags["title"] >= 12  # in both panels


def test_pictures_have_no_sign_that_their_font_lacks_in_either_weight() -> None:
    assert drawable("é 日 🙂 ±") == "é ? ? ±"
    for weight in (False, True):
        assert width("aé", 10, bold=weight) > 10
    lacking = [chr(code) for code in range(0x20, 0x3000) if chr(code) != "?" and drawable(chr(code)) == "?"]
    assert lacking
    assert not set("–…±·#<>&$") & set(lacking)


def test_words_are_cut_and_broken_to_fit() -> None:
    assert clean("a\n\tb\u202ec\x00\ud800d") == "a b c d"
    assert fit("a short one", 500, 11) == "a short one"
    cut = fit("w" * 500, 100, 11)
    assert cut.endswith("…")
    assert 5 < len(cut) < 20
    lines = wrap("one two three four five six seven", 60, 11, lines=2)
    assert len(lines) == 2
    assert lines[1].endswith("…")
    assert wrap("", 60, 11, lines=2) == []
    assert fit("日本" * 100, 50, 11) == "日本日…"
