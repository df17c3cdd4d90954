"""Picking one point of the front by a rule that a person states. Reads validation figures only, never the test part's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from autotune.errors import SelectionError
from autotune.report.front import Point, pareto_front
from autotune.units import format_bytes

Preference = Literal["metric", "memory", "knee"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The chosen point, why it was chosen, and what would have been chosen without it."""

    point: Point
    explanation: str
    runner_up: Point | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "point": self.point.to_dict(),
            "explanation": self.explanation,
            "runner_up": self.runner_up.to_dict() if self.runner_up else None,
        }


def select(
    points: Iterable[Point],
    *,
    memory_cap: int | None = None,
    min_metric: float | None = None,
    prefer: Preference = "metric",
) -> Selection:
    """The best member of the front that meets the conditions.

    memory_cap: bytes; the measured device peak must not exceed it (a point whose device peak was not measured cannot
    meet it). min_metric: the validation metric must reach it. prefer: ``metric`` takes the highest metric, ``memory``
    the least memory, ``knee`` the point furthest above the straight line between the two ends of what is left.

    Raises:
        SelectionError: nothing completed, or no member of the front meets the conditions; the message says what was
            asked and which member comes nearest. Also where a condition itself makes no sense.
    """
    _check(memory_cap, min_metric, prefer)
    everything = list(points)
    front = pareto_front(everything)
    if not front:
        raise SelectionError(
            f"There is nothing to select: of {_count(len(everything), 'finished trial')} none completed with a finite "
            "metric. See `autotune report` for how each ended, or run more trials with `autotune resume`."
        )
    fitting = [point for point in front if _meets(point, memory_cap, min_metric)]
    if not fitting:
        raise SelectionError(_nothing_meets(front, memory_cap, min_metric))
    ranked = _ranked(fitting, prefer)
    chosen, runner_up = ranked[0], (ranked[1] if len(ranked) > 1 else None)
    explanation = _explain(chosen, runner_up, len(fitting), len(front), memory_cap, min_metric, prefer)
    return Selection(point=chosen, explanation=explanation, runner_up=runner_up)


def _check(memory_cap: int | None, min_metric: float | None, prefer: str) -> None:
    problems = []
    if memory_cap is not None and memory_cap <= 0:
        problems.append(f"the memory cap must be above 0 bytes, {memory_cap!r} was given")
    if min_metric is not None and not math.isfinite(min_metric):
        problems.append(f"the least metric must be a finite number, {min_metric!r} was given")
    if prefer not in get_args(Preference):
        problems.append(f"prefer must be one of {', '.join(get_args(Preference))}, {prefer!r} was given")
    if problems:
        raise SelectionError("Selection: " + "; ".join(problems) + ".")


def _meets(point: Point, memory_cap: int | None, min_metric: float | None) -> bool:
    under = memory_cap is None or (point.device is not None and point.device <= memory_cap)
    reaches = min_metric is None or (point.metric is not None and point.metric >= min_metric)
    return under and reaches


def _ranked(points: Sequence[Point], prefer: Preference) -> list[Point]:
    by_metric = sorted(points, key=lambda point: (-point.ranked_metric, point.ranked_memory, point.number))
    if prefer == "memory":
        return sorted(points, key=lambda point: (point.ranked_memory, -point.ranked_metric, point.number))
    if prefer == "knee":
        heights = _heights_over_chord(points)
        return sorted(by_metric, key=lambda point: -heights[point.number])  # stable: ties stay in order of metric
    return by_metric


def _heights_over_chord(points: Sequence[Point]) -> dict[int, float]:
    """How far each point lies above the line between the ends, both axes scaled to [0, 1]; the knee is highest."""
    metrics, memories = [point.ranked_metric for point in points], [point.ranked_memory for point in points]
    metric_span, memory_span = max(metrics) - min(metrics), max(memories) - min(memories)
    if metric_span == 0 or memory_span == 0:
        return {point.number: 0.0 for point in points}
    return {
        point.number: round(
            (point.ranked_metric - min(metrics)) / metric_span - (point.ranked_memory - min(memories)) / memory_span, 12
        )
        for point in points
    }


def _explain(
    chosen: Point,
    runner_up: Point | None,
    fitting: int,
    front: int,
    memory_cap: int | None,
    min_metric: float | None,
    prefer: Preference,
) -> str:
    reason = {
        "metric": f"has the highest validation {chosen.metric_name}",
        "memory": "has the least peak of tensor bytes",
        "knee": "is the knee: beyond it, more memory buys less metric",
    }[prefer]
    asked = _asked(memory_cap, min_metric)
    among = f"of {_count(fitting, 'member')} of the front" + (f" that {asked}" if asked else "")
    if fitting < front:
        among += f" ({front - fitting} of {front} do not)"
    text = f"Trial {chosen.number}, {_figures(chosen)}, {reason} {among}."
    if runner_up is not None:
        text += f" Next best: trial {runner_up.number}, {_figures(runner_up)}."
    return text


def _asked(memory_cap: int | None, min_metric: float | None) -> str:
    conditions = []
    if memory_cap is not None:
        conditions.append(f"stay within {format_bytes(memory_cap)} of device memory")
    if min_metric is not None:
        conditions.append(f"reach a metric of {min_metric:g}")
    return " and ".join(conditions)


def _nothing_meets(front: Sequence[Point], memory_cap: int | None, min_metric: float | None) -> str:
    measured = [point for point in front if point.device is not None] or list(front)
    lines = [f"No member of the front ({len(front)} in all) meets what was asked: to {_asked(memory_cap, min_metric)}."]
    under = [point for point in front if _meets(point, memory_cap, None)]
    reaching = [point for point in front if _meets(point, None, min_metric)]
    if memory_cap is not None and not under:
        nearest = min(measured, key=lambda point: (math.inf if point.device is None else point.device, point.number))
        lines.append(f"The least memory has trial {nearest.number}, {_figures(nearest)}.")
        if nearest.device is None:
            lines.append("No device peak was measured, so no point can be shown to stay within a cap.")
    elif memory_cap is not None:
        nearest = max(under, key=lambda point: (point.ranked_metric, -point.number))
        lines.append(f"The best that stays within memory is trial {nearest.number}, {_figures(nearest)}.")
    if min_metric is not None and not reaching:
        nearest = max(front, key=lambda point: (point.ranked_metric, -point.number))
        lines.append(f"The highest metric has trial {nearest.number}, {_figures(nearest)}.")
    elif min_metric is not None and memory_cap is not None:
        nearest = min(reaching, key=lambda point: (math.inf if point.device is None else point.device, point.number))
        lines.append(f"The least memory that reaches the metric takes trial {nearest.number}, {_figures(nearest)}.")
    lines.append("Relax a condition, or search further with `autotune resume`.")
    return " ".join(lines)


def _figures(point: Point) -> str:
    device = f"device peak {format_bytes(point.device)}" if point.device is not None else "device peak not measured"
    return f"{point.label} ({point.metric_name} {point.ranked_metric:.4g}, {device})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
