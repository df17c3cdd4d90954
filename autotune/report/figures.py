"""What figures have in common: the words around them, the unit of memory, the points sorted by what became of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autotune.outcome import Candidate, MemoryFigures, Status
from autotune.report.axes import LOG_FROM_RATIO
from autotune.report.front import Point, pareto_front
from autotune.report.lettering import clean
from autotune.report.scene import Form, Scene, hint_lines
from autotune.units import count_words, format_bytes

__all__ = ["Chart", "FigureText", "Layers", "figure_text", "layers", "stepped"]

MARKERS: dict[Status, tuple[Form, str]] = {  # form, what the legend says
    Status.STOPPED: ("triangle-down", "stopped early (metric so far)"),
    Status.OVER_CAP: ("cross", "over the cap"),
    Status.OUT_OF_MEMORY: ("plus", "out of memory"),
    Status.DIVERGED: ("diamond", "diverged"),
    Status.INTERRUPTED: ("square", "interrupted"),
    Status.FAILED: ("star", "failed"),
}


class Refused(Protocol):
    """A configuration that was never started, why, and what was predicted for it."""

    @property
    def candidate(self) -> Candidate:
        """The configuration."""
        ...

    @property
    def reason(self) -> str:
        """Why it was not started."""
        ...

    @property
    def predicted(self) -> MemoryFigures | None:
        """What was predicted for it, where something was."""
        ...


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure: ``name`` for its files, a title, one sentence of how to read it, and the drawing."""

    name: str
    title: str
    caption: str
    scene: Scene


@dataclass(frozen=True, kw_only=True)
class MemoryUnit:
    """The unit that a figure's memory is written in."""

    name: str
    size: float

    @classmethod
    def of(cls, counts: Iterable[float | None]) -> MemoryUnit:
        """The unit in which the largest of these bytes is a number that people read easily."""
        largest = max((count for count in counts if count), default=0)
        for name, size in (("GB", 1e9), ("MB", 1e6)):
            if largest >= 2 * size:
                return cls(name=name, size=size)
        return cls(name="kB", size=1e3)

    def of_bytes(self, count: float) -> float:
        """Bytes in this unit."""
        return count / self.size


@dataclass(frozen=True, kw_only=True)
class FigureText:
    """What stands around the front: title, the cap, what became of the trials, the metric's name, the unit of memory."""

    title: str
    subtitle: str
    counts: str
    metric: str
    x_label: str
    y_label: str
    unit: MemoryUnit
    log_x: bool

    def in_unit(self, count: float) -> float:
        """Bytes in the axis' unit."""
        return self.unit.of_bytes(count)


def figure_text(points: Sequence[Point], settings: Mapping[str, Any], refused: Sequence[Refused] = ()) -> FigureText:
    """Words and scale for these points. ``settings`` may have name, model, metric and memory_cap (bytes)."""
    memories = [point.memory for point in points if point.memory]
    predicted = [one.predicted.allocated for one in refused if one.predicted]
    unit = MemoryUnit.of(memories or predicted)
    metric = clean(next((point.metric_name for point in points), str(settings.get("metric") or "metric")))
    name, model = clean(settings.get("name") or "study"), settings.get("model")
    return FigureText(
        title=f"{metric[:1].upper()}{metric[1:]} against memory: {name}"
        + (f" ({_short_model(clean(model))})" if model else ""),
        subtitle=_subtitle(points, settings),
        counts=_counts(points, refused),
        metric=metric,
        x_label=f"peak of tensor bytes while training ({unit.name})",
        y_label=f"validation {metric}",
        unit=unit,
        log_x=bool(memories) and max(memories) / min(memories) > LOG_FROM_RATIO,
    )


def _short_model(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2] or model


def cap_of(settings: Mapping[str, Any]) -> int | None:
    """The memory cap in bytes, where the study has one."""
    cap = settings.get("memory_cap")
    return cap if isinstance(cap, int) and cap > 0 else None


def _subtitle(points: Sequence[Point], settings: Mapping[str, Any]) -> str:
    cap, parts = cap_of(settings), []
    if cap is not None:
        parts.append(f"Memory cap {format_bytes(cap)}, compared with the device peak")
    devices = [point.device for point in points if point.device is not None]
    meters = sorted({point.meter for point in points if point.meter})
    if devices:
        by = f" (meter: {', '.join(meters)})" if meters else ""
        parts.append(f"highest device peak {format_bytes(max(devices))}{by}")
    return ", ".join(parts)


def _counts(points: Sequence[Point], refused: Sequence[Refused]) -> str:
    never = f"{len(refused)} refused before their start" if refused else ""
    if not points:
        return "No trial has finished yet" + (f"; {never}" if never else "")
    ended = {status: sum(point.status is status for point in points) for status in Status}
    words = [f"{count} {status.value.replace('_', ' ')}" for status, count in ended.items() if count]
    unmeasured = sum(not _placed(point) for point in points)
    unseen = f" ({unmeasured} without a measured peak, not shown)" if unmeasured else ""
    trials = f"{count_words(len(points), 'trial')}: {', '.join(words)}{unseen}"
    return trials + (f"; {never}" if never else "")


def _placed(point: Point) -> bool:
    return bool(point.memory) and math.isfinite(point.memory or 0)


@dataclass(frozen=True)
class Layers:
    """The points sorted into what is drawn: the front, complete but beaten, ended otherwise with and without a metric."""

    front: list[Point]
    dominated: list[Point]
    ended: list[Point]
    without_metric: list[Point]

    @property
    def drawn(self) -> list[Point]:
        """Everything that has a place by metric and memory."""
        return [*self.front, *self.dominated, *self.ended]


def layers(points: Iterable[Point]) -> Layers:
    """Sort the points; a point without a known peak cannot be drawn and is left out (the subtitle counts it)."""
    points = list(points)
    front = pareto_front(points)
    members = {point.number for point in front}
    rest = [point for point in points if point.number not in members and _placed(point)]
    placed = [point for point in rest if point.metric is not None and math.isfinite(point.metric)]
    return Layers(
        front=front,
        dominated=[point for point in placed if point.status is Status.COMPLETE],
        ended=[point for point in placed if point.status is not Status.COMPLETE],
        without_metric=[point for point in rest if point.metric is None or not math.isfinite(point.metric)],
    )


def stepped(front: Sequence[Point], until: float) -> list[tuple[float, float]]:
    """The front as a staircase of (bytes, metric): for every amount of memory the best metric that it buys."""
    corners: list[tuple[float, float]] = []
    for point in front:
        if corners:
            corners.append((point.ranked_memory, corners[-1][1]))
        corners.append((point.ranked_memory, point.ranked_metric))
    return [*corners, (max(until, corners[-1][0]), corners[-1][1])] if corners else []


def mark_of(point: Point) -> tuple[Form, str, str]:
    """Form, colour and kind of a trial's mark, wherever it is drawn."""
    if point.on_front:
        return "circle", "accent", "front"
    if point.status is Status.COMPLETE:
        return "circle", "grey", "dominated"
    return MARKERS[point.status][0] if point.status in MARKERS else "square", "warn", "ended"


def hint(point: Point) -> str:
    """What is shown under the pointer."""
    mean, spread = point.confirmed_mean, point.confirmed_spread
    seeds = len(point.confirmed)
    return hint_lines(
        f"#{point.number} {clean(point.label)[:200]}",
        point.status.value.replace("_", " ") + (", on the front" if point.on_front else ""),
        None if point.metric is None else f"validation {clean(point.metric_name)}: {point.metric:.4f}",
        None
        if mean is None
        else f"on {count_words(seeds, 'other seed')}: {mean:.4f}" + (f" ± {spread:.4f}" if spread is not None else ""),
        *(f"test {clean(name)}: {value:.4f}" for name, value in point.test_metrics.items()),
        None if point.memory is None else f"peak of tensor bytes: {format_bytes(point.memory)}",
        None
        if point.device is None
        else f"device peak: {format_bytes(point.device)}" + (f", {clean(point.meter)}" if point.meter else ""),
        None if point.trainable_parameters is None else f"trainable parameters: {point.trainable_parameters:,}",
        f"{point.seconds:.1f} s",
        clean(point.reason)[:160],
    )


def nothing(name: str, title: str, caption: str, why: str) -> Chart:
    """A figure that says why there is nothing to draw."""
    from autotune.report.scene import Words

    scene = Scene(1000, 160, title)
    scene.add(Words(x=28, y=40, text=title, size=17, bold=True), Words(x=28, y=92, text=why, size=13.5, role="muted"))
    return Chart(name=name, title=title, caption=caption, scene=scene)
