"""What stands at an axis: ticks can be told apart, are written alike, and no word lies on another."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from autotune.outcome import EpochReport
from autotune.report import plot_front, points_from
from autotune.report.axes import Scale, numbers, tick_words
from autotune.report.curves import epochs_chart
from autotune.report.front_figure import front_chart
from autotune.report.key import in_a_row
from autotune.report.lettering import width
from autotune.report.parameters import axis_of
from autotune.report.scene import Line, Mark, Scene, Shape, Words
from autotune.report.select import select
from tests.autotune._records import point, refusal, trial

CAP: dict[str, Any] = {"memory_cap": 8 * 10**9}
RANGES = [
    (0.97231, 0.97234), (-1.3e5, 5e3), (9.0e5, 1.2e6), (-4.22e9, -4.11e9), (1e6 + 1, 1e6 + 2), (0.0, 1.0), (2e-9, 9e-9),
    (-31.0, -18.0), (0.5, 0.5 + 1e-9),
]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_ticks_are_told_apart_and_written_alike(low: float, high: float) -> None:
    ticks = tick_words(Scale(low=low, high=high, begin=0, end=1), 6)
    words = [words for _, words in ticks]
    assert len(set(words)) == len(words) > 1
    step = min(after[0] - before[0] for before, after in pairwise(ticks))
    assert all(abs(float(said) - value) < step * 0.01 for value, said in ticks)
    others = [said for said in words if said != "0"]
    assert len({"e" in said for said in others}) == 1
    assert len({len(said.partition("e")[0].partition(".")[2]) for said in others}) == 1


def test_ticks_by_ratio_have_the_digits_that_they_need() -> None:
    assert numbers([0.001, 0.01, 1.0, 10.0], log=True) == ["0.001", "0.01", "1", "10"]
    assert numbers([1e-5, 0.01, 3e6], log=True) == ["1e-5", "1e-2", "3e6"]
    assert numbers([], log=True) == []


def near() -> list[Any]:
    return [trial(number, 0.97231 + number * 7e-6, (3 + number) * 10**8) for number in range(5)]


def test_close_metrics_are_told_apart_in_every_figure() -> None:
    points = points_from(near(), metric_name="spearman")
    scene = front_chart(points, CAP).scene
    ticks = [w.text for w in scene.items if isinstance(w, Words) and w.anchor == "end" and w.text.startswith("0.97")]
    assert len(ticks) == len(set(ticks)) > 2
    assert any(words.startswith("0.972338 · ") for words in scene.words)  # the key
    labels = [line.partition("│")[0].strip() for line in plot_front([points], columns=80) if "│" in line]
    shown = [label for label in labels if label]
    assert len(shown) == len(set(shown)) > 1
    words = [words for _, words in axis_of("metric", [point.ranked_metric for point in points], absent=False).ticks]
    assert len(set(words)) == len(words) > 2


def boxes(scene: Scene) -> list[tuple[Words, float, float]]:
    """Every level text with its left and right end."""
    flat: list[Shape] = []
    for item in scene.items:
        flat += item.shapes if isinstance(item, Mark) else (item,)
    found = []
    for words in flat:
        if isinstance(words, Words) and not words.turn:
            long = width(words.text, words.size, bold=words.bold)
            left = words.x - {"start": 0.0, "middle": long / 2, "end": long}[words.anchor]
            found.append((words, left, left + long))
    return found


def huge() -> list[Any]:
    confirmed = (-4.2e9, -4.21e9, -4.19e9)
    return [trial(n, -4.1234e9 + n * 1.3e6, (3 + n) * 10**8, confirmed=confirmed if n == 2 else ()) for n in range(5)]


@pytest.mark.parametrize(
    "records",
    [
        huge(),
        near(),
        [trial(n, 0.9723101 + n * 2e-7, 10**8 * (n + 1)) for n in range(3)],
        [trial(0, -1.2e5), trial(1, -9.7e5, 10**8)],
    ],
)
def test_no_tick_lies_on_the_name_of_its_axis(records: list[Any]) -> None:
    points = points_from(records, metric_name="neg_mse")
    scene = front_chart(points, CAP).scene
    (name,) = (item for item in scene.items if isinstance(item, Words) and item.turn)
    ticks = [left for words, left, _ in boxes(scene) if words.anchor == "end" and words.x < 200]
    assert len(ticks) > 2
    assert min(ticks) >= name.x + 4
    assert name.x >= 14


def test_no_tick_lies_on_the_name_of_a_curve() -> None:
    epochs = tuple(
        EpochReport(epoch=e, train_loss=-1e9 / 7 / e, metrics={"neg_mse": -4e5 / 7 / e}, seconds=1.0) for e in (1, 2, 3)
    )
    record = trial(0, -1e5)
    assert record.outcome is not None
    records = [replace(record, outcome=replace(record.outcome, epochs=epochs))]
    scene = epochs_chart(records, points_from(records, metric_name="neg_mse"), {}).scene
    names = [item.x for item in scene.items if isinstance(item, Words) and item.turn]
    assert len(names) == 2
    for name in names:
        ticks = [left for words, left, _ in boxes(scene) if words.anchor == "end" and 0 < words.x - name < 130]
        assert len(ticks) > 2
        assert min(ticks) >= name + 4


def test_the_key_stays_in_the_picture() -> None:
    scene = front_chart(points_from(huge(), metric_name="neg_mse"), CAP).scene
    assert max(right for _, _, right in boxes(scene)) <= scene.width
    assert min(left for _, left, _ in boxes(scene)) >= 0


def test_metrics_under_one_another() -> None:
    assert in_a_row([0.8, 0.75]) == ["0.8000", "0.7500"]
    assert in_a_row([0.97231, 0.97232]) == ["0.97231", "0.97232"]
    assert in_a_row([-4.1234e9, -4.1221e9]) == ["-4.1234e9", "-4.1221e9"]
    assert in_a_row([0.5]) == ["0.5000"]


def test_the_selected_member_is_named_in_a_long_key() -> None:
    points = [point(number, number / 100, 10**8 + number * 10**7) for number in range(100)]
    cheap = select(points, memory_cap=2 * 10**8)
    assert cheap.point.number < 20
    scene = front_chart(points, CAP, selection=cheap).scene
    keys = [mark.number for mark in scene.marks("key")]
    assert cheap.point.number in keys
    assert keys[0] == 99
    assert f"and {100 - len(keys)} more: front.csv" in scene.words


def test_with_refusals_alone_the_unit_is_theirs() -> None:
    scene = front_chart([], CAP, refused=[refusal(10**10, 11 * 10**9), refusal(3 * 10**10, 3 * 10**10)]).scene
    assert "peak of tensor bytes (GB)" in scene.words
    assert not any("e" in words for words in scene.words if words[:1].isdigit() and words[-1].isdigit())


def test_the_grid_crosses_neither_the_caps_line_nor_its_words() -> None:
    scene = front_chart([point(0, 0.8, 10**9), point(1, 0.9, 7 * 10**9)], CAP).scene
    flat: list[Shape] = []
    for item in scene.items:
        flat += item.shapes if isinstance(item, Mark) else (item,)
    grid = [order for order, shape in enumerate(flat) if isinstance(shape, Line) and shape.stroke == "grid"]
    shaded = [order for order, shape in enumerate(flat) if isinstance(shape, Line) and shape.fill == "over"]
    cap = next(n for n, shape in enumerate(flat) if isinstance(shape, Line) and shape.stroke == "cap")
    words = next(n for n, shape in enumerate(flat) if isinstance(shape, Words) and shape.text == "cap 8 GB")
    assert min(shaded) < max(grid) < min(cap, words)
