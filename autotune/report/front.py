"""The accuracy-memory front: which trials no other trial beats in metric and memory at once. Pure arithmetic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from autotune.outcome import InferenceFigures, Outcome, Status, TrialRecord


@dataclass(frozen=True, kw_only=True)
class Point:
    """One finished trial as figures, tables and selection see it.

    metric: the validation metric (higher is better) or None; memory: peak of allocated tensor bytes, the axis of the
    front; reserved: bytes of the caching allocator; device: bytes the process held of the device, what a memory cap
    compares; meter: which source ``device`` came from. test_metrics are shown, never chosen by.
    confirmed: the metric of each complete training on another seed; confirmed_of: how many other seeds were trained to
    an end, a good or a bad one; inference: what answering takes. These are known of members of the front alone.
    """

    number: int
    label: str
    metric: float | None
    memory: int | None
    device: int | None
    status: Status
    metric_name: str
    seconds: float = 0.0
    trainable_parameters: int | None = None
    test_metrics: dict[str, float] = field(default_factory=dict)
    on_front: bool = False
    reason: str = ""
    reserved: int | None = None
    meter: str | None = None
    predicted_device: int | None = None
    confirmed: tuple[float, ...] = ()
    confirmed_of: int = 0
    inference: InferenceFigures | None = None

    @property
    def confirmed_mean(self) -> float | None:
        """Mean of the metric over the other seeds (the search's own seed is not among them); None where unconfirmed."""
        return statistics.fmean(self.confirmed) if self.confirmed else None

    @property
    def confirmed_spread(self) -> float | None:
        """Standard deviation over the other seeds (of a sample); None where fewer than two are known."""
        return statistics.stdev(self.confirmed) if len(self.confirmed) > 1 else None

    @property
    def may_stand_on_front(self) -> bool:
        """Whether the trial ended well and both its figures are known and finite."""
        return (
            self.status.has_metric
            and self.metric is not None
            and math.isfinite(self.metric)
            and self.memory is not None
            and math.isfinite(self.memory)
        )

    @property
    def ranked_metric(self) -> float:
        """The metric, for comparisons: one that is not known is below all others."""
        return -math.inf if self.metric is None else self.metric

    @property
    def ranked_memory(self) -> float:
        """The memory, for comparisons: one that is not known is above all others."""
        return math.inf if self.memory is None else self.memory

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; a metric that is not finite becomes None, since JSON has no NaN."""
        return {
            "number": self.number,
            "label": self.label,
            "status": self.status.value,
            "on_front": self.on_front,
            "metric_name": self.metric_name,
            "metric": _finite(self.metric),
            "allocated_bytes": self.memory,
            "reserved_bytes": self.reserved,
            "device_bytes": self.device,
            "predicted_device_bytes": self.predicted_device,
            "meter": self.meter,
            "confirmed": list(self.confirmed),
            "confirmed_of": self.confirmed_of,
            "confirmed_mean": self.confirmed_mean,
            "confirmed_spread": self.confirmed_spread,
            "inference": None if self.inference is None else asdict(self.inference),
            "seconds": self.seconds,
            "trainable_parameters": self.trainable_parameters,
            "test_metrics": {name: _finite(value) for name, value in self.test_metrics.items()},
            "reason": self.reason,
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def points_from(records: Iterable[TrialRecord], *, metric_name: str = "metric") -> list[Point]:
    """One point a finished trial, by number, with ``on_front`` set; trials that still run are left out."""
    points = [
        _point(record, record.outcome, metric_name)
        for record in sorted(records, key=lambda record: record.number)
        if record.outcome is not None
    ]
    members = {point.number for point in pareto_front(points)}
    return [replace(point, on_front=point.number in members) for point in points]


def _point(record: TrialRecord, outcome: Outcome, metric_name: str) -> Point:
    peak = outcome.peak
    return Point(
        number=record.number,
        label=record.candidate.label,
        metric=outcome.metric,
        memory=peak.allocated if peak else None,
        device=peak.device if peak else None,
        reserved=peak.reserved if peak else None,
        meter=peak.meter if peak else None,
        predicted_device=outcome.predicted.device if outcome.predicted else None,
        status=outcome.status,
        metric_name=metric_name,
        seconds=outcome.seconds,
        trainable_parameters=outcome.trainable_parameters,
        test_metrics=dict(record.test_metrics or {}),
        reason=outcome.reason,
        confirmed=_confirmed(record),
        confirmed_of=sum(one.outcome.status is not Status.INTERRUPTED for one in record.confirmations),
        inference=record.inference,
    )


def _confirmed(record: TrialRecord) -> tuple[float, ...]:
    ended = [one.outcome for one in record.confirmations if one.outcome.status.has_metric]
    return tuple(one.metric for one in ended if one.metric is not None and math.isfinite(one.metric))


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats: none has at least its metric for at most its memory, one of the two better.

    Points equal in both figures stand or fall together. Ordered by memory, then by number; ``on_front`` is set on
    the points returned. Points that did not complete, or whose figures are missing or not finite, are never on it.
    """
    able = [point for point in points if point.may_stand_on_front]
    able.sort(key=lambda point: (point.ranked_memory, -point.ranked_metric, point.number))
    front: list[Point] = []
    for point in able:
        if not front or point.ranked_metric > front[-1].ranked_metric or _same(point, front[-1]):
            front.append(replace(point, on_front=True))
    return front


def hypervolume(points: Sequence[Point], reference: tuple[float, float]) -> float:
    """The area that the front covers, seen from ``reference`` = (worst metric, most memory in bytes).

    Unit: metric times bytes. Points that do not beat the reference in both figures add nothing.
    """
    worst_metric, most_memory = reference
    area, height = 0.0, worst_metric
    for point in pareto_front(points):
        if point.ranked_memory >= most_memory or point.ranked_metric <= height:
            continue
        area += (point.ranked_metric - height) * (most_memory - point.ranked_memory)
        height = point.ranked_metric
    return area


def _same(one: Point, other: Point) -> bool:
    return one.metric == other.metric and one.memory == other.memory
