"""The Pareto front and its hypervolume, against brute force."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.outcome import Confirmation, Outcome, Status
from autotune.report.front import Point, hypervolume, pareto_front, points_from
from tests.autotune._records import point, trial

METRICS = st.one_of(st.none(), st.floats(-2, 2), st.sampled_from([0.5, 0.5, math.nan, math.inf]))
MEMORIES = st.one_of(st.none(), st.integers(1, 10**12), st.sampled_from([5, 5]))
CLOUDS = st.lists(
    st.tuples(METRICS, MEMORIES, st.sampled_from([Status.COMPLETE, Status.COMPLETE, Status.STOPPED])), max_size=30
).map(lambda rows: [point(number, m, b, status=status) for number, (m, b, status) in enumerate(rows)])


def beats(one: Point, other: Point) -> bool:
    assert None not in (one.metric, other.metric, one.memory, other.memory)
    better = one.metric > other.metric or one.memory < other.memory  # type: ignore[operator]  # none is None here
    return one.metric >= other.metric and one.memory <= other.memory and better  # type: ignore[operator]  # as above


@given(CLOUDS)
def test_front_is_what_nothing_beats(points: list[Point]) -> None:
    able = [
        p
        for p in points
        if p.status is Status.COMPLETE and p.metric is not None and math.isfinite(p.metric) and p.memory is not None
    ]
    expected = {p.number for p in able if not any(beats(other, p) for other in able)}
    assert {p.number for p in pareto_front(points)} == expected


@given(CLOUDS, st.randoms())
def test_front_does_not_depend_on_order_and_is_its_own_front(points: list[Point], random: object) -> None:
    front = pareto_front(points)
    shuffled = list(points)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis hands a random.Random
    assert pareto_front(shuffled) == front
    assert pareto_front(front) == front
    assert all(p.on_front for p in front)
    assert [p.memory for p in front] == sorted(p.memory for p in front if p.memory is not None)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), max_size=12))
def test_hypervolume_counts_the_cells_below_the_front(cells: list[tuple[int, int]]) -> None:
    points = [point(number, float(metric), memory) for number, (metric, memory) in enumerate(cells)]
    worst_metric, most_memory = 2, 10
    counted = sum(
        any(metric > y and memory <= x for metric, memory in cells)
        for y in range(worst_metric, 12)
        for x in range(1, most_memory)
    )
    assert hypervolume(points, (worst_metric, most_memory)) == counted


@given(CLOUDS, st.floats(-1, 1), st.integers(1, 10**12))
def test_a_further_point_never_makes_the_hypervolume_smaller(points: list[Point], metric: float, memory: int) -> None:
    reference = (-2.0, 1e12)
    more = [*points, point(99, metric, memory)]
    before, after = hypervolume(points, reference), hypervolume(more, reference)
    assert after >= before * (1 - 1e-12)


def test_metrics_below_zero_have_a_front_and_an_area() -> None:
    points = [point(1, -90.0, 10), point(2, -40.0, 20), point(3, -60.0, 30), point(4, -20.0, 40)]
    assert [p.number for p in pareto_front(points)] == [1, 2, 4]
    assert hypervolume(points, (-100.0, 50)) == 10 * 40 + 50 * 30 + 20 * 10


def test_equal_points_stand_together_and_a_worse_one_falls() -> None:
    points = [point(1, 0.8, 100), point(2, 0.8, 100), point(3, 0.8, 101), point(4, 0.79, 100), point(5, 0.7, 50)]
    assert [p.number for p in pareto_front(points)] == [5, 1, 2]


def test_points_come_from_finished_records_only() -> None:
    running = replace(trial(7), outcome=None)
    stopped = trial(3, 0.99, 1_000, status=Status.STOPPED)
    failed = trial(2, None, None, status=Status.FAILED, reason="boom")
    points = points_from([running, stopped, trial(1, test_metrics={"accuracy": 0.75}), failed], metric_name="accuracy")
    assert [p.number for p in points] == [1, 2, 3]
    assert [p.on_front for p in points] == [True, False, False]
    assert points[0].memory == 400_000_000
    assert points[0].device == 1_000_000_000
    assert points[0].metric_name == "accuracy"
    assert points[0].test_metrics == {"accuracy": 0.75}
    assert points[1].reason == "boom"


@pytest.mark.parametrize("metric", [math.nan, math.inf, -math.inf, None])
def test_a_metric_that_is_not_finite_is_never_on_the_front_and_is_null_in_json(metric: float | None) -> None:
    odd = point(1, metric, 10)
    assert pareto_front([odd]) == []
    assert json.loads(json.dumps(odd.to_dict(), allow_nan=False))["metric"] is None


def test_the_mean_over_other_seeds_leaves_out_what_did_not_complete_and_the_seed_of_the_search() -> None:
    def ended(metric: float | None, status: Status = Status.COMPLETE) -> Outcome:
        return Outcome(status=status, metric=metric)

    outcomes = [ended(0.70), ended(0.80), ended(0.99, Status.DIVERGED), ended(None), ended(math.nan)]
    several = tuple(Confirmation(seed=seed, outcome=outcome) for seed, outcome in enumerate(outcomes, start=10))
    record = trial(0, 0.95)
    made = [
        points_from([replace(record, confirmations=several[:count])], metric_name="accuracy")[0] for count in (0, 1, 5)
    ]
    assert [one.confirmed_mean for one in made] == [None, 0.70, pytest.approx(0.75)]
    assert [one.confirmed_spread for one in made] == [None, None, pytest.approx(0.0707, abs=1e-4)]
    assert json.loads(json.dumps(made[2].to_dict()))["confirmed"] == [0.70, 0.80]
