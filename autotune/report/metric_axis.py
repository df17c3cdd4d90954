"""The upright axis of a metric: it holds what is worth telling apart, and under it is a lane for what is far below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autotune.report.axes import Panel, Scale, scale, tick_words
from autotune.report.scene import Line, Scene, Shape, glyph

_LANE, _IN_LANE, _ARROW = (
    56.0,
    40.0,
    15.0,
)  # pixels: the lane's height, its marks above its end, their arrows under them


@dataclass(frozen=True, kw_only=True)
class MetricAxis:
    """The axis of a metric on ``scale``; it ends at ``floor``, and the rest of the scale is the lane (-inf: there is none)."""

    scale: Scale
    floor: float = -math.inf

    @classmethod
    def of(cls, values: Sequence[float], limit: float, *, bottom: float, top: float, room: float) -> MetricAxis:
        """For these metrics, of which those under ``limit`` (see :func:`~autotune.report.reach.far_below`) do not stretch it."""
        found = scale([value for value in values if value >= limit], bottom, top, room=room)
        if not any(value < found.low for value in values):
            return cls(scale=found)
        part = (bottom - top) / (bottom - top - _LANE)
        return cls(scale=replace(found, low=found.high - (found.high - found.low) * part), floor=found.low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Round metrics with their words, none of them in the lane."""
        return [(value, words) for value, words in tick_words(self.scale, 6) if value >= self.floor]

    def below(self, metric: float) -> bool:
        """Whether a metric is so far off that the axis does not reach it."""
        return metric < self.floor

    def at(self, metric: float) -> float:
        """The pixel of a metric; what lies below the axis stands in the lane."""
        return self.scale.begin - _IN_LANE if self.below(metric) else self.scale.at(metric)

    def arrow(self, x: float, metric: float, role: str) -> tuple[Shape, ...]:
        """What says under a mark that it lies below the axis; nothing for one that does not."""
        return glyph("arrow-down", x, self.at(metric) + _ARROW, 4.2, role) if self.below(metric) else ()

    def draw_floor(self, scene: Scene, panel: Panel) -> None:
        """Where the axis ends, if there is a lane."""
        if math.isfinite(self.floor):
            end = self.scale.at(self.floor)
            scene.add(Line(points=((panel.left, end), (panel.right, end)), stroke="axis", dash=(2, 4)))
