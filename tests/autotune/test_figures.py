"""The figures: for every odd set of points they must be drawn, say the cap, work offline and escape names."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest

from autotune.outcome import Status
from autotune.report.figures import figure_text, front_html, layers, memory_range, metric_range, stepped
from autotune.report.front import Point, points_from
from autotune.report.picture import write_pictures
from tests.autotune._records import point, trial

SETTINGS: dict[str, Any] = {"name": "reviews", "model": "all-minilm-l6-v2", "memory_cap": 8_000_000_000}


def cloud(count: int) -> list[Point]:
    random_numbers = random.Random(0)
    statuses = [Status.COMPLETE, Status.COMPLETE, *Status]
    records = []
    for number in range(count):
        status = random_numbers.choice(statuses)
        metric = random_numbers.random() if status in (Status.COMPLETE, Status.STOPPED) else None
        records.append(trial(number, metric, random_numbers.randrange(10**8, 10**9), status=status))
    return points_from(records, metric_name="accuracy")


CASES = {
    "none": [],
    "one": [point(0, 0.8, 400_000_000)],
    "two": [point(0, 0.8, 400_000_000), point(1, 0.9, 500_000_000)],
    "many": cloud(200),
    "all equal": [point(number, 0.5, 400_000_000) for number in range(5)],
    "all zero": [point(number, 0.0, 400_000_000 + number) for number in range(3)],
    "negative": [point(0, -3.5, 10**8), point(1, -1.2, 2 * 10**8)],
    "huge range": [point(0, 0.5, 1_000), point(1, 0.7, 10**6), point(2, 0.9, 80 * 10**9)],
    "a long front": [point(number, number / 100, 10**8 + number * 10**7) for number in range(100)],
    "no memory": [point(0, 0.5, None, status=Status.FAILED)],
    "zero memory": [point(0, 0.5, 0)],
    "only failures": [
        point(0, None, 10**8, status=Status.OUT_OF_MEMORY),
        point(1, math.nan, 10**8, status=Status.DIVERGED),
    ],
    "names": [point(0, 0.8, 10**8, label="$x_ {^ <b>日本 🙂\n\t" + "w" * 300)],
}


@pytest.mark.parametrize("points", CASES.values(), ids=CASES.keys())
def test_every_set_of_points_is_drawn(points: list[Point], tmp_path: Path) -> None:
    png, svg = tmp_path / "front.png", tmp_path / "front.svg"
    front = [p.number for p in layers(points).front]
    write_pictures([png, svg], points, SETTINGS, selected=front[0] if front else None)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text()
    page = front_html(points, SETTINGS, selected=front[0] if front else None)
    assert "reviews" in page


@pytest.mark.parametrize("points", CASES.values(), ids=CASES.keys())
def test_axes_hold_every_point(points: list[Point]) -> None:
    layered, text = layers(points), figure_text(points, SETTINGS)
    (left, right), (bottom, top) = memory_range(points, text), metric_range(layered)
    assert left < right
    assert bottom < top
    assert not text.log_x or left > 0
    for p in layered.drawn:
        assert p.metric is not None
        assert bottom < p.metric < top
        assert left <= text.in_unit(p.memory or 0) < right


def test_the_picture_is_the_same_every_time(tmp_path: Path) -> None:
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        write_pictures([path], CASES["many"], SETTINGS)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_page_loads_nothing_from_a_network() -> None:
    page = front_html(CASES["many"], SETTINGS)
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.split("</head>")[0] + page[-200_000:])
    assert tags
    assert not re.search(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)\s*=", page)
    assert len(page) > 1_000_000  # the script is in it


def test_names_in_the_page_stay_text() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    points = [point(0, 0.8, 10**8, label=evil, reason=evil, metric_name=evil, meter=evil, test_metrics={evil: 0.5})]
    page = front_html(points, {"name": evil, "model": evil, "memory_cap": 10**9})
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    # what plotly's own markup would read must be escaped, too: in the data a < is written as <
    assert "\\u003cimg src=x" not in page


def test_says_the_cap_the_meter_and_what_became_of_the_trials() -> None:
    text = figure_text(cloud(20), SETTINGS)
    assert "8.00 GB (7.45 GiB)" in text.subtitle
    assert "process private bytes" in text.subtitle
    assert "tensor bytes" in text.x_label
    assert text.counts.startswith("20 trials: ")
    assert "over cap" in text.counts
    assert text.y_label == "validation accuracy"
    assert figure_text([], {}).counts == "No trial has finished yet"


@pytest.mark.parametrize(
    ("memory", "unit"), [(900, "kB"), (5_000_000, "MB"), (1_900_000_000, "MB"), (24 * 10**9, "GB")]
)
def test_unit_of_the_axis(memory: int, unit: str) -> None:
    assert figure_text([point(0, 0.5, memory)], {}).unit == unit


def test_the_front_is_a_staircase() -> None:
    points = [point(0, 0.5, 10_000_000), point(1, 0.7, 30_000_000)]
    text = figure_text(points, {})
    assert stepped(layers(points).front, text, 40.0) == ([10, 30, 30, 40], [0.5, 0.5, 0.7, 0.7])
    assert stepped([], text, 1.0) == ([], [])


def test_points_are_sorted_into_layers() -> None:
    points = [
        point(0, 0.5, 10),
        point(1, 0.4, 20),
        point(2, 0.9, 5, status=Status.STOPPED),
        point(3, None, 5, status=Status.FAILED),
        point(4, None, None, status=Status.FAILED),
    ]
    layered = layers(points)
    assert [[p.number for p in part] for part in (layered.front, layered.dominated, layered.ended)] == [[0], [1], [2]]
    assert [p.number for p in layered.without_metric] == [3]
    assert "1 without a measured peak" in figure_text(points, {}).counts
