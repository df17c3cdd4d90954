"""The two panels of the front's figure: the metric over tensor bytes, and over the device peak that the cap compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.report.axes import Panel, Scale, label_room, scale, wide_range
from autotune.report.figures import FigureText, Layers, MemoryUnit, Refused, cap_of
from autotune.report.front import Point
from autotune.report.metric_axis import MetricAxis
from autotune.report.reach import far_below_points

WIDTH, HEIGHT = 1240.0, 680.0
TOP, BOTTOM = 148.0, 545.0
LEFT, KEY = 82.0, 905.0
_NAME_AT = 28.0  # of the upright axis' name
_BEYOND = 2.5  # refused ones further out than this many times the cap or the largest trial stand at the edge


@dataclass(frozen=True)
class View:
    """One panel's way of reading a trial's memory: tensor bytes or device."""

    kind: str
    panel: Panel
    unit: MemoryUnit
    metrics: MetricAxis

    def bytes_of(self, point: Point) -> int | None:
        """What a trial took, where it is known."""
        return point.memory if self.kind == "tensors" else point.device

    def predicted(self, refused: Refused) -> int | None:
        """What was predicted for a refused one, where something was."""
        if refused.predicted is None:
            return None
        return refused.predicted.allocated if self.kind == "tensors" else refused.predicted.device

    def x(self, count: float) -> float:
        """The pixel of so many bytes."""
        return self.panel.x.at(self.unit.of_bytes(count))

    def y(self, metric: float) -> float:
        """The pixel of a metric."""
        return self.metrics.at(metric)


def views_of(
    points: Sequence[Point],
    layered: Layers,
    settings: Mapping[str, Any],
    text: FigureText,
    refused: Sequence[Refused],
) -> list[View]:
    """The panel of tensor bytes and, where devices or a cap are known, the one of device peaks, of one height.

    A metric that is far below the front does not stretch the axis: see :func:`~autotune.report.reach.far_below`.
    """
    heights = [point.ranked_metric for point in layered.drawn]
    for point in layered.front:
        heights += list(point.confirmed)
    metrics = MetricAxis.of(heights, far_below_points(points), bottom=BOTTOM, top=TOP, room=0.13)
    vertical = metrics.scale
    left_end = max(LEFT, _NAME_AT + label_room(vertical))
    devices = [point.device for point in points if point.device]
    cap = cap_of(settings)
    split = bool(devices) or cap is not None
    tensors = [point.memory for point in points if point.memory]
    seen = [one.predicted for one in refused if one.predicted]
    left = _horizontal(
        tensors, [one.allocated for one in seen], None, text.unit, (left_end, 555.0 if split else KEY - 50), text.log_x
    )
    views = [View("tensors", Panel(x=left, y=vertical), text.unit, metrics)]
    if split:
        unit = MemoryUnit.of([*devices, cap])
        values = [*devices, *([cap] if cap else [])]
        right = _horizontal(
            devices,
            [one.device for one in seen],
            cap,
            unit,
            (590.0, 868.0),
            bool(values) and max(values) > 4 * min(values),
        )
        views.append(View("device", Panel(x=right, y=vertical), unit, metrics))
    return views


def _horizontal(
    trials: Sequence[float],
    predicted: Sequence[float],
    cap: int | None,
    unit: MemoryUnit,
    ends: tuple[float, float],
    log: bool,
) -> Scale:
    known = [*trials, *([cap] if cap else [])]
    limit = _BEYOND * max(known, default=max(predicted, default=1.0))
    values = [unit.of_bytes(value) for value in (*known, *(min(value, limit) for value in predicted)) if value > 0]
    found = scale(values, *ends, log=log or wide_range(values), room=0.1)
    return found if found.log or found.low >= 0 else Scale(low=0.0, high=found.high, begin=ends[0], end=ends[1])
