"""The rule that a person states for a selection: conditions that a point must meet, and what is preferred."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from autotune.errors import ConfigError
from autotune.report.front import Point
from autotune.report.ranking import worth
from autotune.units import format_bytes, format_latency

Preference = Literal["metric", "memory", "latency", "knee"]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition on one figure.

    words: what is asked, e.g. ``stay within 2.00 GB of device memory``; best: the figure's name where it is best;
    figure: None where it was not measured; highest: whether it must reach the limit, else it must not pass it.
    """

    words: str
    best: str
    figure: Callable[[Point], float | None]
    limit: float
    highest: bool = False

    def met(self, point: Point) -> bool:
        """Whether the point's figure is known and within the limit."""
        value = self.figure(point)
        return value is not None and (value >= self.limit if self.highest else value <= self.limit)

    def nearest(self, points: Sequence[Point]) -> Point:
        """Of points, the one whose figure is best."""

        def distance(point: Point) -> float:
            value = self.figure(point)
            return math.inf if value is None else (-value if self.highest else value)

        return min(points, key=lambda point: (distance(point), -worth(point), point.number))


def device_bytes(point: Point) -> float | None:
    """The device peak of the training."""
    return point.device


def answering_bytes(point: Point) -> float | None:
    """The device peak while answering."""
    return None if point.inference is None else point.inference.peak.device


def latency_seconds(point: Point) -> float | None:
    """The time that one row alone takes."""
    return None if point.inference is None else point.inference.latency_seconds


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is asked of a selection; each condition may be None.

    memory_cap: bytes; the measured device peak of the training must not exceed it. inference_memory_cap: bytes; the same
    for the device peak while answering. min_metric: the validation metric must reach it, the mean over other seeds where
    there is one. max_latency: seconds that the answer to one row alone may take. prefer: ``metric`` takes the highest
    metric, ``memory`` the least tensor bytes, ``latency`` the soonest answer, ``knee`` the point furthest above the
    straight line between the two ends of what is left.

    Raises:
        ConfigError: a condition makes no sense; all problems are named.
    """

    memory_cap: int | None = None
    inference_memory_cap: int | None = None
    min_metric: float | None = None
    max_latency: float | None = None
    prefer: Preference = "metric"

    def __post_init__(self) -> None:
        caps = {"memory cap": self.memory_cap, "inference memory cap": self.inference_memory_cap}
        problems = [
            f"the {name} must be above 0 bytes, {cap!r} was given"
            for name, cap in caps.items()
            if cap is not None and cap <= 0
        ]
        if self.min_metric is not None and not math.isfinite(self.min_metric):
            problems.append(f"the least metric must be a finite number, {self.min_metric!r} was given")
        if self.max_latency is not None and not 0 < self.max_latency < math.inf:
            problems.append(f"the longest latency must be above 0 seconds and finite, {self.max_latency!r} was given")
        if self.prefer not in get_args(Preference):
            problems.append(f"prefer must be one of {', '.join(get_args(Preference))}, {self.prefer!r} was given")
        if problems:
            raise ConfigError(problems, where="selection")

    @property
    def conditions(self) -> list[Condition]:
        """Those that were stated."""
        stated = []
        if self.memory_cap is not None:
            words = f"stay within {format_bytes(self.memory_cap)} of device memory"
            stated.append(Condition(words=words, best="least memory", figure=device_bytes, limit=self.memory_cap))
        if self.inference_memory_cap is not None:
            cap = self.inference_memory_cap
            words = f"answer within {format_bytes(cap)} of device memory"
            stated.append(
                Condition(words=words, best="least memory while answering", figure=answering_bytes, limit=cap)
            )
        if self.min_metric is not None:
            words = f"reach a metric of {self.min_metric:g}"
            stated.append(
                Condition(words=words, best="highest metric", figure=worth, limit=self.min_metric, highest=True)
            )
        if self.max_latency is not None:
            words = f"answer one row within {format_latency(self.max_latency)}"
            stated.append(
                Condition(words=words, best="shortest latency", figure=latency_seconds, limit=self.max_latency)
            )
        return stated

    @property
    def needs_inference(self) -> bool:
        """Whether it reads what answering takes."""
        return self.inference_memory_cap is not None or self.max_latency is not None or self.prefer == "latency"

    def meets(self, point: Point) -> bool:
        """Whether a point meets every condition; a figure that was not measured meets none."""
        measured = self.prefer != "latency" or point.inference is not None
        return measured and all(condition.met(point) for condition in self.conditions)


def asked(conditions: Sequence[Condition]) -> str:
    """Conditions in words; "" for none."""
    return " and ".join(condition.words for condition in conditions)
