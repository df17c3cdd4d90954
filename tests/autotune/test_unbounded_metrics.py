"""Metrics without a bound: a hopeless trial neither squashes the front in a figure nor decides a hypervolume."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autotune.outcome import EpochReport, Status, TrialRecord
from autotune.report import plot_front, points_from
from autotune.report.compare import Compared, compare
from autotune.report.comparison_files import comparison_chart
from autotune.report.curves import epochs_chart
from autotune.report.front import Point
from autotune.report.front_figure import front_chart
from autotune.report.parameters import axis_of, parallel_chart
from autotune.report.progress import hypervolume_chart
from autotune.report.reach import far_below, far_below_points, reference_point
from autotune.report.scene import Circle, Line, Scene, Words
from tests.autotune._records import point, trial

GOOD = [(-18.2, 4 * 10**9), (-19.7, 2 * 10**9), (-22.4, 9 * 10**8), (-25.1, 5 * 10**8), (-31.0, 12 * 10**8)]
HOPELESS = [(-8912.3, 11 * 10**8), (-41877.0, 3 * 10**9)]


def perplexities(*, status: Status = Status.STOPPED) -> list[TrialRecord]:
    """Four members of a front, one that is beaten, and two that came to nothing."""
    records = [trial(number, metric, memory) for number, (metric, memory) in enumerate(GOOD)]
    return records + [trial(5 + n, metric, memory, status=status) for n, (metric, memory) in enumerate(HOPELESS)]


def points_of(records: list[TrialRecord]) -> list[Point]:
    return points_from(records, metric_name="neg_perplexity")


def height(scene: Scene, kind: str, number: int) -> float:
    """The pixel of a circle's mark in the first panel."""
    shape = next(mark.shapes[0] for mark in scene.marks(kind) if mark.number == number)
    assert isinstance(shape, Circle)
    return shape.y


@pytest.mark.parametrize(
    ("front", "complete", "far", "near"),
    [
        ([-18.2, -19.7, -22.4, -25.1], [-18.2, -19.7, -22.4, -25.1, -31], -8912.0, -31.0),
        ([-18.2, -9000.0], [-18.2, -9000.0], -9000.0, -19.0),  # cheap and hopeless, so on the front
        ([-18.2], [-18.2, -9000.0, -9100.0, -9200.0], -9000.0, -30.0),  # most are hopeless
        ([0.8, 0.7], [0.8, 0.75, 0.7], -35.0, 0.0),  # r2
        ([-0.31], [-0.31, -0.32, -0.35, -0.4], -80.0, -0.5),
        ([-1e9], [-1e9], -1e12, -1.9e9),
    ],
)
def test_what_is_far_below(front: list[float], complete: list[float], far: float, near: float) -> None:
    assert far < far_below(front, complete) <= near


@pytest.mark.parametrize("front", [[0.9001, 0.9002], [0.9], [1.0]])
def test_a_metric_from_0_to_1_is_always_shown_whole(front: list[float]) -> None:
    assert far_below(front, front) <= 0.0


def test_without_a_front_or_a_scale_nothing_is_far() -> None:
    assert far_below([], [1.0]) == far_below([0.0], [0.0]) == far_below_points([]) == -math.inf


def test_the_front_has_the_height_of_its_figure() -> None:
    scene = front_chart(points_of(perplexities()), {}).scene
    best, worst = (height(scene, "front", number) for number in (0, 3))
    assert worst - best > 100
    below = [mark for mark in scene.marks("ended") if mark.number in (5, 6)]
    assert [mark.y for mark in below] == [-8912.3, -41877.0] * 2  # the value is kept under the pointer
    for mark in below:
        body, *arrow = mark.shapes
        assert isinstance(body, Line)
        assert min(y for _, y in body.points) > height(scene, "dominated", 4)
        assert len(arrow) == 2  # shaft and head
    assert "2 far below, out of scale" in scene.words
    assert any("at -8912.3" in words for words in scene.words)
    ticks = [float(words) for words in scene.words if words.startswith("-") and " " not in words]
    assert ticks
    assert min(ticks) > -40


def test_without_such_trials_there_is_no_lane() -> None:
    scene = front_chart(points_of(perplexities()[:5]), {}).scene
    assert not any("out of scale" in words for words in scene.words)


def test_a_hopeless_member_of_the_front_stands_below_the_axis_too() -> None:
    records = [*perplexities()[:4], trial(9, -9000.0, 10**8)]
    scene = front_chart(points_of(records), {}).scene
    assert height(scene, "front", 3) - height(scene, "front", 0) > 100
    assert height(scene, "front", 9) > height(scene, "front", 3)
    assert "1 far below, out of scale" in scene.words


def test_a_hopeless_seed_does_not_squash_the_front() -> None:
    records = [trial(0, -18.2, 4 * 10**9, confirmed=(-19.0, -9000.0)), *perplexities()[1:5]]
    scene = front_chart(points_of(records), {}).scene
    (seeds,) = scene.marks("seeds")
    assert seeds.y == -4509.5
    assert all(isinstance(s, Line) and min(y for _, y in s.points) > height(scene, "front", 3) for s in seeds.shapes)
    assert height(scene, "front", 3) - height(scene, "front", 0) > 100


def with_epochs(record: TrialRecord) -> TrialRecord:
    assert record.outcome is not None
    metric = record.outcome.metric or 0.0
    epochs = tuple(
        EpochReport(epoch=e, train_loss=3.0, metrics={"neg_perplexity": metric * (4 - e)}, seconds=1.0)
        for e in (1, 2, 3)
    )
    return replace(record, outcome=replace(record.outcome, epochs=epochs))


def test_curves_that_leave_the_plot_end_at_its_edge() -> None:
    records = [with_epochs(record) for record in perplexities()]
    scene = epochs_chart(records, points_of(records), {}).scene
    marks = scene.marks("epochs front")[:4]
    lasts = [shape.y for mark in marks for shape in mark.shapes if isinstance(shape, Circle)][2::3]
    assert max(lasts) - min(lasts) > 10
    hopeless = [mark for mark in scene.marks("epochs other") if mark.number in (5, 6)]
    metric_panel = hopeless[:2]
    for mark in metric_panel:  # no line, only arrows under its three epochs
        assert len(mark.shapes) == 6
        assert all(isinstance(shape, Line) and len(shape.points) < 4 for shape in mark.shapes)
    assert "goes on far below" in scene.words
    everything = [shape for mark in scene.marks() for shape in mark.shapes if isinstance(shape, Line)]
    assert max(y for line in everything for _, y in line.points) <= 430.01


def test_parallel_coordinates_tell_the_good_ones_apart() -> None:
    records = perplexities()
    axis = axis_of("metric", [metric for metric, _ in [*GOOD, *HOPELESS]], absent=False, limit=-100.0)
    assert axis.place(-8912.3) == axis.place(-41877.0) == 0.0
    assert axis.place(-18.2) - axis.place(-25.1) > 0.3
    assert (0.0, "far below") in axis.ticks
    scene = parallel_chart(records, points_of(records), (None, None)).scene
    assert "far below" in scene.words
    assert "-41900" not in scene.words


def test_the_terminal_shows_steps() -> None:
    points = points_of(perplexities(status=Status.COMPLETE))
    lines = plot_front([points], columns=100)
    assert len({row for row, line in enumerate(lines) if "●" in line}) > 2
    assert lines[-1].strip() == "on the lower edge: 2 far below, out of scale"
    assert sum(line.count("v") for line in lines[:-3]) == 2
    assert "out of scale" not in "\n".join(plot_front([points_of(perplexities()[:5])], columns=100))


def study(name: str, *metrics: float) -> Compared:
    points = [point(number, metric, 10**8 * (number + 1)) for number, metric in enumerate(metrics)]
    return Compared(name=name, model="", points=tuple(points))


@pytest.mark.parametrize("place", ["first", "last"])
def test_one_hopeless_trial_does_not_level_the_hypervolumes(place: str) -> None:
    """Also where it has the least memory, and so is a member of the front."""
    one, other = [-30.0, -22.0, -20.0, -18.0], [-34.0, -31.0, -30.0, -29.0]
    both = [[-9000.0, *metrics] if place == "first" else [*metrics, -9000.0] for metrics in (one, other)]
    found = compare([study("a", *both[0]), study("b", *both[1])], metric_name="neg_perplexity")
    assert found.reference is not None
    assert found.reference[0] == pytest.approx(-34 - 1.6)
    assert found.hypervolumes["b"] < 0.5 * found.hypervolumes["a"]
    scene = comparison_chart(found).scene
    ys = [s.y for mark in scene.marks("member") for s in mark.shapes if isinstance(s, Circle)]
    assert max(ys) - min(ys) > 100
    assert ("far below, out of scale" in scene.words) is (place == "first")


def test_the_front_over_time_has_the_reference_of_a_comparison() -> None:
    metrics = [-9000.0, -30.0, -22.0, -20.0, -18.0]
    points = [point(number, metric, 10**8 * (number + 1)) for number, metric in enumerate(metrics)]
    assert compare([study("a", *metrics)], metric_name="m").reference == reference_point([points])
    scene = hypervolume_chart(points, {}).scene
    shares = [mark.y or 0.0 for mark in scene.marks()]
    assert shares[0] == 0.0
    assert shares[1] < 0.3  # the second is no more than a begin
    assert shares[-1] == 1.0


def test_a_front_of_one_member_is_measured_from_the_other_trials() -> None:
    points = [point(0, 0.8, 100), point(1, 0.6, 200), point(2, 0.7, 300)]
    assert reference_point([points]) == pytest.approx((0.6, 303))
    assert reference_point([[point(0, -18.0, 100), point(1, -9000.0, 200)]]) == pytest.approx((-18.0, 202))
    assert reference_point([[], []]) is None


def test_words_of_the_reference_are_whole() -> None:
    points = [point(number, -4.12e9 + number * 1e6, 10**8 * (number + 1), metric_name="neg_mse") for number in range(3)]
    said = " ".join(item.text for item in hypervolume_chart(points, {}).scene.items if isinstance(item, Words))
    assert "neg_mse -4.1202e9" in said
    assert "1 % above the most of a trial" in said
