"""What is far off: metrics without a bound have values so far below the others that an axis with them shows nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from autotune.report.axes import numbers
from autotune.report.front import Point, pareto_front
from autotune.units import format_bytes

_SPREADS = 8.0
"""So many times the spread of the good values the others may lie below the best: the good ones keep an eighth of an axis."""
_MARGIN = 0.1
"""The reference lies this part of the fronts' height below their worst member, so that the worst covers an area too."""


def far_below(front: Iterable[float], values: Iterable[float]) -> float:
    """The metric under which values are far off; -inf where there is none of the front.

    front: metrics of the front; values: of all trials that are complete. The spread of what is good is the larger of two: from
    the best to the median of the front, and from the best to the upper quartile of all. So neither a cheap member with a
    hopeless metric nor three quarters of hopeless trials widen it. What lies between the best and 0 or twice the best is
    never far off: a metric from 0 to 1 is always shown whole.
    """
    front = sorted((value for value in front if math.isfinite(value)), reverse=True)
    values = sorted((value for value in values if math.isfinite(value)), reverse=True)
    if not front:
        return -math.inf
    best = front[0]
    spread = best - front[(len(front) - 1) // 2]
    if values:
        spread = max(spread, best - values[(len(values) - 1) // 4])
    reach = max(_SPREADS * spread, abs(best))
    return best - reach if reach > 0 else -math.inf


def far_below_points(points: Iterable[Point]) -> float:
    """:func:`far_below` for trials."""
    able = [point for point in points if point.may_stand_on_front]
    return far_below([p.ranked_metric for p in pareto_front(able)], [p.ranked_metric for p in able])


def reference_point(studies: Sequence[Sequence[Point]]) -> tuple[float, float] | None:
    """(metric, memory in bytes) from which the hypervolumes of these studies are measured; None where no trial is complete.

    The metric is a little below the worst member of any front that is not far off (the nadir): one below every trial would
    make an area of nothing but the distance to the worst of them. Where all members have one metric it is the worst of a complete
    trial that is not far off. The memory is a hundredth above the most that a complete trial took, so that the
    largest counts too.
    """
    able = [[point for point in points if point.may_stand_on_front] for points in studies]
    fronts = [point.ranked_metric for points in able for point in pareto_front(points)]
    complete = [point.ranked_metric for points in able for point in points]
    if not complete:
        return None
    limit = far_below(fronts, complete)
    best = max(fronts)
    worst = min(value for value in fronts if value >= limit)
    metric = worst - _MARGIN * (best - worst) if worst < best else min(v for v in complete if v >= limit)
    return metric, max(point.ranked_memory for points in able for point in points) * 1.01


def reference_words(metric_name: str, reference: tuple[float, float]) -> str:
    """Where a reference lies and why there, in words."""
    metric, memory = reference
    return (
        f"{metric_name} {numbers([metric], within=1e-5)[0]} (a little below the worst member of a front that is not far off) and "
        f"{format_bytes(round(memory))} of tensors (1 % above the most of a trial)"
    )
