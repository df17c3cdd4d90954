"""In which order points may be chosen: a metric that other seeds confirm counts more than one that stood out in a search.

A search's best is picked because it was high, so its own seed flatters it. Hence:

1. A confirmed point is judged by the mean over the other seeds; the search's own seed is not in it.
2. Where any point is confirmed, those that are not come after all that are.
3. A confirmed point that another one beats (at least its mean for at most its memory, one of the two better) is out.
4. A point of which less than half of the other seeds ended well comes last: its mean would be of the lucky ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.report.front import Point


def worth(point: Point) -> float:
    """What choices compare: the mean over other seeds, and where there is none the metric of the search."""
    return point.ranked_metric if point.confirmed_mean is None else point.confirmed_mean


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Points by what their other seeds say. beaten: each with a point that beats it."""

    confirmed: list[Point]
    unconfirmed: list[Point]
    failing: list[Point]
    beaten: list[tuple[Point, Point]]


def standing(points: Sequence[Point]) -> Standing:
    """Sorts points into the four groups; every point is in one."""
    failing = [point for point in points if 2 * len(point.confirmed) < point.confirmed_of]
    others = [point for point in points if 2 * len(point.confirmed) >= point.confirmed_of]
    tried = [point for point in others if point.confirmed]
    winners = {point.number: _winner_over(point, tried) for point in tried}
    return Standing(
        confirmed=[point for point in tried if winners[point.number] is None],
        unconfirmed=[point for point in others if not point.confirmed],
        failing=failing,
        beaten=[(point, winner) for point in tried if (winner := winners[point.number]) is not None],
    )


def _winner_over(point: Point, others: Sequence[Point]) -> Point | None:
    winners = [
        other
        for other in others
        if worth(other) >= worth(point)
        and other.ranked_memory <= point.ranked_memory
        and (worth(other), -other.ranked_memory) != (worth(point), -point.ranked_memory)
    ]
    return max(winners, key=lambda other: (worth(other), -other.ranked_memory, -other.number), default=None)


def ranked(stand: Standing, prefer: str) -> list[Point]:
    """The points that may be chosen, best first; group by group, since figures of different groups do not compare."""
    groups = (stand.confirmed, stand.unconfirmed, stand.failing)
    return [point for group in groups for point in _within(group, prefer)]


def _within(points: Sequence[Point], prefer: str) -> list[Point]:
    by_metric = sorted(points, key=lambda point: (-worth(point), point.ranked_memory, point.number))
    if prefer == "memory":
        return sorted(by_metric, key=lambda point: point.ranked_memory)  # stable: ties stay in order of metric
    if prefer == "latency":
        return sorted(by_metric, key=_latency)
    if prefer == "knee" and points:
        heights = _heights_over_chord(points)
        return sorted(by_metric, key=lambda point: -heights[point.number])
    return by_metric


def _latency(point: Point) -> float:
    assert point.inference is not None, "the rule leaves out what was not measured"
    return point.inference.latency_seconds


def _heights_over_chord(points: Sequence[Point]) -> dict[int, float]:
    """How far each point lies above the line between the ends, both axes scaled to [0, 1]; the knee is highest."""
    metrics, memories = [worth(point) for point in points], [point.ranked_memory for point in points]
    metric_span, memory_span = max(metrics) - min(metrics), max(memories) - min(memories)
    if metric_span == 0 or memory_span == 0:
        return {point.number: 0.0 for point in points}
    return {
        point.number: round(
            (worth(point) - min(metrics)) / metric_span - (point.ranked_memory - min(memories)) / memory_span, 12
        )
        for point in points
    }
