"""The front's figure: for every odd set of points it is drawn, holds the right marks at the right places, says the cap."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from autotune.outcome import Status
from autotune.report.figures import figure_text, layers, stepped
from autotune.report.front import Point, points_from
from autotune.report.front_figure import front_chart
from autotune.report.front_view import HEIGHT, WIDTH
from autotune.report.lettering import width
from autotune.report.picture import write_png
from autotune.report.scene import Circle, Line, Mark, Words
from autotune.report.select import select
from autotune.report.svg import svg_file
from tests.autotune._records import point, refusal, trial

SETTINGS: dict[str, Any] = {"name": "reviews", "model": "all-minilm-l6-v2", "memory_cap": 8_000_000_000}


def cloud(count: int) -> list[Point]:
    random_numbers = random.Random(0)
    statuses = [Status.COMPLETE, Status.COMPLETE, *(status for status in Status if status is not Status.REFUSED)]
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
    "no device": [point(0, 0.5, 10**8, device=None)],
    "only failures": [
        point(0, None, 10**8, status=Status.OUT_OF_MEMORY),
        point(1, math.nan, 10**8, status=Status.DIVERGED),
    ],
    "complete without a metric": [point(0, None, 10**8)],
    "names": [point(0, 0.8, 10**8, label="$x_ {^ <b>日本 🙂\n\t\x00\u202e\ud800" + "w" * 500)],
}


def on_paper(items: list[Any], scene_width: float, scene_height: float) -> bool:
    flat = [shape for item in items for shape in (item.shapes if isinstance(item, Mark) else (item,))]
    places: list[tuple[float, float]] = []
    for shape in flat:
        if isinstance(shape, Words) and not shape.turn:
            long = width(shape.text, shape.size, bold=shape.bold)
            left = shape.x - {"start": 0.0, "middle": long / 2, "end": long}[shape.anchor]
            places += [(left, shape.y), (left + long, shape.y)]
        elif isinstance(shape, Circle):
            places.append((shape.x, shape.y))
        elif isinstance(shape, Line):
            places += shape.points
    return all(-1 <= x <= scene_width + 1 and -1 <= y <= scene_height + 1 for x, y in places)


@pytest.mark.parametrize("points", CASES.values(), ids=CASES.keys())
def test_every_set_of_points_is_drawn(points: list[Point], tmp_path: Path) -> None:
    able = layers(points).front
    chart = front_chart(
        points, SETTINGS, selection=select(points) if able else None, refused=[refusal(10**9, 9 * 10**9)]
    )
    write_png(tmp_path / "front.png", chart.scene)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    svg = ElementTree.fromstring(svg_file(chart.scene))
    assert svg.get("width") == str(int(WIDTH))
    assert svg[1].get("fill") == "#ffffff"  # paper: legible on a dark page too
    assert on_paper(chart.scene.items, WIDTH, HEIGHT)
    assert all(math.isfinite(shape.x) for shape in chart.scene.items if isinstance(shape, Words))


@pytest.mark.parametrize("points", CASES.values(), ids=CASES.keys())
def test_every_point_has_its_mark_once_in_each_panel(points: list[Point]) -> None:
    scene, layered = front_chart(points, SETTINGS).scene, layers(points)
    for kind, some in (
        ("front", layered.front), ("dominated", layered.dominated), ("ended", layered.ended), ("no-metric", layered.without_metric),
    ):  # fmt: skip
        expected = [p.number for p in some if p.memory] + [p.number for p in some if p.device]
        assert sorted(mark.number for mark in scene.marks(kind) if mark.number is not None) == sorted(expected)


def test_the_cap_is_a_line_at_its_place_among_device_peaks() -> None:
    points = [point(0, 0.7, 10**8, device=500_000_000), point(1, 0.9, 9 * 10**8, device=1_500_000_000)]
    scene = front_chart(points, {"memory_cap": 2_000_000_000}).scene
    (cap,) = scene.marks("cap")
    assert cap.x == 2.0  # GB
    (line,) = (shape for shape in cap.shapes if isinstance(shape, Line))
    (x, _), (other, _) = line.points
    assert x == other
    devices = {mark.number: mark.shapes[0] for mark in scene.marks("front")[2:]}
    assert all(isinstance(shape, Circle) and shape.x < x for shape in devices.values())
    first, second = (devices[number] for number in (0, 1))
    assert isinstance(first, Circle)
    assert isinstance(second, Circle)
    # a linear axis: the cap lies as far beyond the second as half of what lies between the two
    assert (x - second.x) / (second.x - first.x) == pytest.approx(0.5)
    assert not front_chart(points, {}).scene.marks("cap")


def test_the_metric_is_at_the_same_height_in_both_panels_and_higher_is_better() -> None:
    scene = front_chart(CASES["two"], SETTINGS).scene
    heights: dict[int | None, set[float]] = {}
    for mark in scene.marks("front"):
        shape = mark.shapes[0]
        assert isinstance(shape, Circle)
        heights.setdefault(mark.number, set()).add(shape.y)
    assert [len(found) for found in heights.values()] == [1, 1]
    assert min(heights[1]) < min(heights[0])


def test_refused_ones_stand_on_the_lower_edge_at_their_predicted_memory() -> None:
    refused = [refusal(3 * 10**8, 3 * 10**9), refusal(10**12, 10**12, name="lora"), refusal(None, name="adapter")]
    scene = front_chart(CASES["two"], {"memory_cap": 10**9}, refused=refused).scene
    marks = scene.marks("refused")
    assert [mark.x for mark in marks[:2]] == [300.0, 10**6]
    assert len(marks) == 4  # two known predictions, in each panel
    assert "1 beyond" in scene.words
    assert all("over the cap" in mark.hint for mark in marks)
    assert "3 refused before their start" in " ".join(scene.words)


def test_front_members_are_named_and_no_name_lies_on_another() -> None:
    points = cloud(60)
    scene, front = front_chart(points, SETTINGS).scene, layers(points).front
    words = scene.words
    for member in front:
        assert any(
            text.startswith(f"#{member.number} {member.label.split()[0]}") or text == f"#{member.number}"
            for text in words
        )
    named = [item for item in scene.items if isinstance(item, Words) and item.size == 11.5 and item.role == "accent"]
    boxes = [(w.x, w.y - 9, w.x + width(w.text, w.size, bold=w.bold), w.y + 2) for w in named]
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_confirmed_members_show_mean_and_spread() -> None:
    records = [trial(0, 0.80, 10**8), trial(1, 0.90, 2 * 10**8, confirmed=(0.86, 0.88))]
    (mark,) = front_chart(points_from(records), SETTINGS).scene.marks("seeds")
    assert (mark.number, mark.y) == (1, pytest.approx(0.87))
    upright = mark.shapes[0]
    assert isinstance(upright, Line)
    assert len({x for x, _ in upright.points}) == 1
    assert "on 2 other seeds: 0.8700 ± 0.0141" in mark.hint


def test_the_selected_one_has_a_ring_and_its_reason() -> None:
    chart = front_chart(CASES["two"], SETTINGS, selection=select(CASES["two"]))
    rings = [
        mark.number
        for mark in chart.scene.marks("front")
        if any(isinstance(s, Circle) and s.fill is None for s in mark.shapes)
    ]
    assert rings == [1, 1]
    assert any("has the highest validation accuracy" in words for words in chart.scene.words)


def test_the_picture_is_the_same_every_time() -> None:
    assert svg_file(front_chart(CASES["many"], SETTINGS).scene) == svg_file(front_chart(CASES["many"], SETTINGS).scene)


def test_says_the_cap_the_meter_and_what_became_of_the_trials() -> None:
    text = figure_text(cloud(20), SETTINGS)
    assert "8.00 GB (7.45 GiB)" in text.subtitle
    assert "process private bytes" in text.subtitle
    assert "tensor bytes" in text.x_label
    assert text.counts.startswith("20 trials: ")
    assert "over cap" in text.counts
    assert text.y_label == "validation accuracy"
    assert figure_text([], {}).counts == "No trial has finished yet"
    unseen = figure_text([point(4, None, None, status=Status.FAILED)], {})
    assert "1 without a measured peak" in unseen.counts


@pytest.mark.parametrize(
    ("memory", "unit"), [(900, "kB"), (5_000_000, "MB"), (1_900_000_000, "MB"), (24 * 10**9, "GB")]
)
def test_unit_of_the_axis(memory: int, unit: str) -> None:
    assert figure_text([point(0, 0.5, memory)], {}).unit.name == unit


def test_the_front_is_a_staircase() -> None:
    points = [point(0, 0.5, 10), point(1, 0.7, 30)]
    assert stepped(layers(points).front, 40.0) == [(10, 0.5), (30, 0.5), (30, 0.7), (40, 0.7)]
    assert stepped([], 1.0) == []


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
