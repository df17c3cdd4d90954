"""The further figures: what they show is what the record holds, and each says why where there is nothing to show."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.outcome import EpochReport, MemoryFigures, Status, TrialRecord
from autotune.report.curves import epochs_chart, memory_chart
from autotune.report.figures import Chart
from autotune.report.front import hypervolume, points_from
from autotune.report.importance import LEAST_TRIALS, importance_of
from autotune.report.parameters import axis_of, importance_chart, importances, joined, parallel_chart, varied
from autotune.report.parts import bars, parts_chart
from autotune.report.predicted import errors_in_words, pairs, predicted_chart
from autotune.report.progress import growth, hypervolume_chart
from autotune.report.reach import reference_point
from autotune.report.scene import Line
from tests.autotune._records import trial

PARTS = {"weights": 250_000_000, "gradients": 0, "activations": 150_000_000}


def explained(chart: Chart) -> str:
    return " ".join(chart.scene.words)


def test_bars_hold_every_part_and_what_is_outside_tensors() -> None:
    records = [
        trial(0, 0.8, 400_000_000, device=1_000_000_000, details={"peak_parts": PARTS}),
        trial(1, 0.7, 500_000_000),  # not on the front
    ]
    points = points_from(records)
    (bar,) = bars(records, points)
    assert bar.tensors == {"weights": 250_000_000, "activations": 150_000_000}
    assert bar.device == {"tensors": 400_000_000, "outside tensors": 600_000_000}
    scene = parts_chart(records, points, {"memory_cap": 2 * 10**9}).scene
    assert [mark.x for mark in scene.marks("part tensors")] == [250.0, 150.0]
    assert sum(mark.x or 0 for mark in scene.marks("part device")) == 1.0  # GB
    assert scene.marks("cap")[0].x == 2.0
    assert not parts_chart(records, points, {"memory_cap": 40 * 10**9}).scene.marks("cap")
    assert "cap 40.00 GB, off the right end" in explained(parts_chart(records, points, {"memory_cap": 40 * 10**9}))


def test_on_a_gpu_the_allocator_is_a_part_of_the_device() -> None:
    peak = MemoryFigures(allocated=700, reserved=1000, device=1600, meter="nvml, this process")
    records = [trial(0, 0.8, peak=peak, details={"peak_parts": {"allocator": 1000, "outside it": 600}})]
    (bar,) = bars(records, points_from(records))
    assert bar.tensors == {}
    assert bar.device == {"tensors": 700, "cached by the allocator": 300, "outside tensors": 600}
    assert "only the allocator is asked" in parts_chart(records, points_from(records), {}).caption


@pytest.mark.parametrize("told", [None, "no parts", {}, {"weights": "many"}, {"weights": None}])
def test_parts_that_were_not_recorded_are_not_drawn(told: Any) -> None:
    records = [trial(0, details={"peak_parts": told})]
    scene = parts_chart(records, points_from(records), {}).scene
    assert not scene.marks("part tensors")
    assert len(scene.marks("part device")) == 2


def test_predicted_against_measured() -> None:
    said = MemoryFigures(allocated=300_000_000, device=900_000_000, meter="prediction")
    records = [
        trial(0, 0.8, 400_000_000, device=10**9, predicted=said),
        trial(1, 0.9, predicted=None),
        trial(2, None, None),
    ]
    points = points_from(records)
    tensors, devices = pairs(records, points)
    assert [(p.number, a, b) for p, a, b in tensors] == [(0, 300_000_000, 400_000_000)]
    assert [(p.number, a, b) for p, a, b in devices] == [(0, 900_000_000, 10**9)]
    chart = predicted_chart(records, points, {"memory_cap": 2 * 10**9})
    (mark,) = chart.scene.marks("device")
    assert (mark.x, mark.y) == (0.9, 1.0)  # GB
    exact = chart.scene.marks("exact")[0].shapes[0]
    assert isinstance(exact, Line)
    assert "1 of 1 too low (at most by 10.0%)" in chart.caption
    assert "complete" in chart.scene.words
    assert "on the front" not in chart.scene.words  # the member of the front has no prediction
    assert "none of 1 too low" in errors_in_words([(points[0], 11, 10)], "device")


def test_hypervolume_grows_with_each_trial_that_adds_to_the_front() -> None:
    records = [trial(0, 0.65, 100), trial(1, 0.7, 300), trial(2, 0.4, 400), trial(3, 0.6, 50), trial(4, None, None)]
    points = points_from(records)
    reference = reference_point([points])
    assert reference == (pytest.approx(0.59), pytest.approx(404))  # below the front's worst, not the worst of all
    rows = growth(points, reference, {})
    areas = [area for _, area, _ in rows]
    assert areas == sorted(areas)
    assert areas[-1] == hypervolume(points, reference)
    assert areas[0] == pytest.approx(0.06 * 304)
    scene = hypervolume_chart(points, {}).scene
    assert [mark.number for mark in scene.marks("grew")] == [0, 1, 3]
    assert [mark.number for mark in scene.marks("same")] == [2, 4]


def test_hypervolume_over_seconds_where_all_ends_are_known() -> None:
    points = points_from([trial(0, 0.5, 100), trial(1, 0.7, 300), trial(2, 0.4, 400)])
    scene = hypervolume_chart(points, {0: 200.0, 1: 100.0, 2: 300.0}).scene
    assert [(mark.number, mark.x) for mark in scene.marks("grew")] == [(1, 100 / 60), (0, 200 / 60)]
    assert any("minutes" in words for words in scene.words)
    counted = hypervolume_chart(points, {0: 200.0}).scene  # one alone says nothing of the others
    assert "trials that ended" in counted.words


@pytest.mark.parametrize("records", [[], [trial(0, 0.5, 100), trial(1, 0.5, 200)], [trial(0, None, None)]])
def test_without_an_area_the_figure_says_why(records: list[TrialRecord]) -> None:
    assert not hypervolume_chart(points_from(records), {}).scene.marks()


def mixed(count: int) -> list[TrialRecord]:
    """The metric follows the learning rate, the memory the batch size; the seed of data says nothing."""
    numbers = random.Random(1)
    records = []
    for number in range(count):
        method = numbers.choice(["lora", "full"])
        rate, batch = numbers.uniform(0, 1), numbers.choice([8, 16, 32])
        params = {"method": method, f"{method}.learning_rate": rate, "batch_size": batch, "noise": numbers.random()}
        params |= {"lora.rank": numbers.choice([4, 8])} if method == "lora" else {}
        records.append(trial(number, rate, 10**7 * batch, params=params))
    return records


def test_importance_finds_what_the_figures_depend_on() -> None:
    records = mixed(60)
    metric, memory = importances(records, points_from(records))
    assert metric is not None
    assert memory is not None
    assert next(iter(metric.shares)) == "learning_rate"
    assert next(iter(memory.shares)) == "batch_size"
    assert metric.shares["learning_rate"][0] > 0.8
    assert metric.explained > 0.8
    assert sum(share for share, _ in metric.shares.values()) == pytest.approx(1, abs=1e-6)
    chart = importance_chart(points_from(records), (metric, memory))
    assert len(chart.scene.marks("importance")) == 2 * len(metric.shares)


def test_importance_is_not_claimed_of_chance_or_of_few() -> None:
    numbers = np.random.default_rng(0)
    params = [{"x": float(value)} for value in numbers.random(80)]
    chance = importance_of(params, numbers.random(80).tolist())
    assert chance is not None
    assert chance.explained < 0.1
    records = mixed(LEAST_TRIALS - 1)
    assert "Too few trials" in explained(
        importance_chart(points_from(records), importances(records, points_from(records)))
    )
    equal = [trial(number, 0.5, 10**8, params={"x": number}) for number in range(20)]
    assert importances(equal, points_from(equal)) == (None, None)


def test_parameters_of_one_name_of_different_methods_are_one() -> None:
    records = mixed(20)
    params = joined(records)
    assert {"learning_rate", "lora.rank", "batch_size", "method", "noise"} == {name for one in params for name in one}
    both = [trial(0, params={"a.x": 1, "b.x": 2}), trial(1, params={"a.x": 1})]
    assert joined(both) == [{"a.x": 1, "b.x": 2}, {"a.x": 1}]
    assert varied(joined(both)) == ["b.x"]
    assert varied([{"x": 1}, {"x": True}]) == ["x"]


def test_every_trial_with_figures_is_a_line_through_all_axes() -> None:
    records = [*mixed(30), trial(30, None, 10**8, status=Status.FAILED), trial(31, math.nan, 10**8)]
    points = points_from(records)
    chart = parallel_chart(records, points, importances(records, points))
    lines = [*chart.scene.marks("parallel"), *chart.scene.marks("parallel front")]
    assert sorted(mark.number or 0 for mark in lines) == list(range(30))
    for mark in lines:
        (line,) = mark.shapes
        assert isinstance(line, Line)
        assert len(line.points) == 7  # method, learning rate, batch size, noise, rank, memory, metric
    assert any(words == "–" for words in chart.scene.words)  # some trials have no rank


@pytest.mark.parametrize(
    "values",
    [[1, 2, 3], [1e-5, 1e-2], [0.0, 0.0], ["a", "b"], [True, False], [None, [1, 2], {"a": 1}], [-1, 5], [1e-320, 1.0], ["only"]],
)  # fmt: skip
def test_axes_of_any_values(values: list[Any]) -> None:
    axis = axis_of("x", values, absent=True)
    places = [axis.place(value) for value in values]
    assert all(0.1 < place <= 1.0 for place in places)
    if len({repr(value) for value in values}) == len(values):
        assert len(set(places)) == len(values)


def test_curves_of_the_metric_the_loss_and_the_memory() -> None:
    epochs = (
        EpochReport(epoch=1, train_loss=2.0, metrics={"accuracy": 0.5}, seconds=1.0),
        EpochReport(epoch=2, train_loss=math.nan, metrics={"accuracy": math.nan}, seconds=2.0),
        EpochReport(epoch=3, train_loss=1.0, metrics={}, seconds=3.0),
    )
    held = ((0.0, 10**8), (1.0, 4 * 10**8), (2.0, 3 * 10**8))
    records = [trial(0, 0.8, 100, memory_over_time=held), trial(1, 0.7, 200)]
    first = records[0]
    assert first.outcome is not None
    points = points_from(records, metric_name="accuracy")
    scene = epochs_chart([trial(0, 0.8, 100, epochs=0)], points, {}).scene
    assert not scene.marks()
    scene = epochs_chart(records, points, {}).scene
    assert len(scene.marks("epochs front")) == len(scene.marks("epochs other")) == 2  # metric and loss
    scene = memory_chart(records, points, {"memory_cap": 10**9}).scene
    (mark,) = scene.marks("memory_over_time front")
    assert (mark.number, mark.x, mark.y) == (0, 2.0, 300.0)
    assert scene.marks("cap")[0].y == 1000.0
    far = memory_chart(records, points, {"memory_cap": 10**11}).scene
    assert not far.marks("cap")
    assert any("lies above the plot" in words for words in far.words)
    odd = [trial(0, 0.8, 100)]
    odd = [type(odd[0])(number=0, candidate=odd[0].candidate, seed=0, outcome=type(first.outcome)(status=Status.COMPLETE, metric=0.8, epochs=epochs))]  # fmt: skip
    scene = epochs_chart(odd, points_from(odd, metric_name="accuracy"), {}).scene
    assert [(mark.x, mark.y) for mark in scene.marks()] == [(1.0, 0.5), (3.0, 1.0)]


def test_without_readings_the_memory_figure_says_so() -> None:
    assert "No trial's memory was recorded" in explained(memory_chart([trial(0)], points_from([trial(0)]), {}))


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=1)
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), odd), min_size=LEAST_TRIALS, max_size=LEAST_TRIALS + 4),
    st.integers(0, 5),
)
def test_importance_takes_parameters_of_any_kind(params: list[dict[str, Any]], seed: int) -> None:
    figures = np.random.default_rng(seed).random(len(params)).tolist()
    found = importance_of(params, figures)
    if found is not None:
        assert all(math.isfinite(share) and math.isfinite(spread) for share, spread in found.shares.values())
        assert math.isfinite(found.explained)
    else:
        assert not varied(params)
