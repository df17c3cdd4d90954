"""Selection: what it may choose, what it must not look at, what it says."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import ConfigError, SelectionError
from autotune.outcome import Status
from autotune.report.front import pareto_front
from autotune.report.select import select
from tests.autotune._records import point

GB = 10**9
FRONT = [point(1, 0.70, 1 * GB), point(2, 0.80, 2 * GB), point(3, 0.85, 4 * GB), point(4, 0.86, 8 * GB)]
BEATEN = point(5, 0.79, 3 * GB)


def test_prefers_the_metric_by_default() -> None:
    chosen = select([*FRONT, BEATEN])
    assert chosen.point.number == 4
    assert chosen.runner_up is not None
    assert chosen.runner_up.number == 3
    assert "Trial 4" in chosen.explanation
    assert "accuracy 0.86" in chosen.explanation


def test_prefers_memory_or_the_knee() -> None:
    assert select(FRONT, prefer="memory").point.number == 1
    assert select(FRONT, prefer="memory", min_metric=0.8).point.number == 2
    assert select(FRONT, prefer="knee").point.number in (2, 3)
    assert select(FRONT[:2], prefer="knee").point.number == 2


def test_cap_compares_the_device_peak_and_not_tensor_bytes() -> None:
    points = [replace(p, device=(p.memory or 0) + 3 * GB) for p in FRONT]
    assert select(points, memory_cap=7 * GB).point.number == 3
    assert select(points, memory_cap=7 * GB - 1).point.number == 2


def test_a_point_without_a_device_peak_is_not_trusted_under_a_cap() -> None:
    points = [FRONT[0], replace(FRONT[3], device=None)]
    assert select(points).point.number == 4
    assert select(points, memory_cap=100 * GB).point.number == 1


def test_beaten_and_unfinished_points_are_never_chosen() -> None:
    stopped = point(6, 0.99, 1, status=Status.STOPPED)
    nan = point(7, math.nan, 1)
    assert select([BEATEN, *FRONT, stopped, nan], memory_cap=3 * GB, min_metric=0.75).point.number == 2


def test_test_scores_are_never_read() -> None:
    tempting = [
        replace(p, test_metrics={"accuracy": score}) for p, score in zip(FRONT, [1.0, 0.9, 0.1, 0.0], strict=True)
    ]
    for prefer in ("metric", "memory", "knee"):
        assert select(tempting, prefer=prefer).point.number == select(FRONT, prefer=prefer).point.number


def test_says_what_was_asked_and_what_comes_nearest() -> None:
    with pytest.raises(SelectionError) as caught:
        select(FRONT, memory_cap=2 * GB, min_metric=0.84)
    message = str(caught.value)
    assert "2.00 GB" in message
    assert "0.84" in message
    assert re.search(r"highest metric of those that stay within 2.00 GB [^.]*\.?[^.]* memory has trial 2", message)
    assert "least memory of those that reach a metric of 0.84 has trial 3" in message
    with pytest.raises(SelectionError, match="highest metric has trial 4"):
        select(FRONT, min_metric=0.9)
    with pytest.raises(SelectionError, match="least memory has trial 1"):
        select(FRONT, memory_cap=GB // 2)
    with pytest.raises(SelectionError, match="none completed"):
        select([point(1, None, 5, status=Status.FAILED)])
    with pytest.raises(SelectionError, match="none completed"):
        select([])


def test_metrics_below_zero_are_chosen_by_like_others() -> None:
    perplexities = [point(1, -90.0, GB), point(2, -40.0, 2 * GB), point(3, -38.5, 8 * GB)]
    assert select(perplexities).point.number == 3
    assert select(perplexities, min_metric=-50).point.number == 3
    assert select(perplexities, min_metric=-50, prefer="memory").point.number == 2
    assert select(perplexities, prefer="knee").point.number == 2
    with pytest.raises(SelectionError, match="to reach a metric of -10") as caught:
        select(perplexities, min_metric=-10)
    assert "highest metric has trial 3" in str(caught.value)
    assert "stay within" not in str(caught.value), "no memory was asked for"


def test_conditions_that_make_no_sense_are_refused_together() -> None:
    with pytest.raises(ConfigError) as caught:
        select(FRONT, memory_cap=0, min_metric=math.nan, prefer="speed")  # type: ignore[arg-type]  # what a person may type
    assert all(words in str(caught.value) for words in ("memory cap", "least metric", "'speed'"))


def test_is_json() -> None:
    plain = json.loads(json.dumps(select(FRONT).to_dict(), allow_nan=False))
    assert plain["point"]["number"] == 4
    assert plain["runner_up"]["number"] == 3
    assert json.loads(json.dumps(select(FRONT[:1]).to_dict()))["runner_up"] is None


POINTS = st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 100)), min_size=1, max_size=20).map(
    lambda rows: [point(number, metric, memory) for number, (metric, memory) in enumerate(rows)]
)


@given(
    POINTS, st.none() | st.integers(1, 120), st.none() | st.floats(-1, 1), st.sampled_from(["metric", "memory", "knee"])
)
def test_the_choice_meets_the_conditions_and_is_on_the_front(points, cap, least, prefer) -> None:  # type: ignore[no-untyped-def]  # hypothesis fills them
    front = pareto_front(points)
    able = [p for p in front if (cap is None or p.device <= cap) and (least is None or p.metric >= least)]
    if not able:
        with pytest.raises(SelectionError):
            select(points, memory_cap=cap, min_metric=least, prefer=prefer)
        return
    chosen = select(points, memory_cap=cap, min_metric=least, prefer=prefer)
    assert chosen.point in able
    assert chosen.runner_up is None or (chosen.runner_up in able and chosen.runner_up != chosen.point)
    if prefer == "metric":
        assert chosen.point.metric == max(p.metric for p in able)
    if prefer == "memory":
        assert chosen.point.memory == min(p.memory for p in able)
