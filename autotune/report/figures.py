"""The front as a picture: PNG and SVG for papers and chats, a page with hover for browsers that works offline."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.outcome import Status
from autotune.report.front import Point, pareto_front
from autotune.units import format_bytes

ACCENT, GREY, WARN, INK = "#0b6e99", "#9aa3ab", "#c2571a", "#20262b"
MARKERS = {  # status: (matplotlib marker, plotly symbol, what the legend says)
    Status.STOPPED: ("v", "triangle-down", "stopped early (metric so far)"),
    Status.OVER_CAP: ("X", "x", "over the cap"),
    Status.OUT_OF_MEMORY: ("P", "cross", "out of memory"),
    Status.DIVERGED: ("D", "diamond", "diverged"),
    Status.INTERRUPTED: ("s", "square", "interrupted"),
    Status.FAILED: ("X", "x-thin-open", "failed"),
}
_LOG_FROM_RATIO = 20.0


@dataclass(frozen=True, kw_only=True)
class FigureText:
    """What stands around a figure: title, the cap and what became of the trials, the axes' names, the unit of memory."""

    title: str
    subtitle: str
    counts: str
    x_label: str
    y_label: str
    unit: str
    bytes_per_unit: float
    log_x: bool

    def in_unit(self, count: float) -> float:
        """Bytes in the axis' unit."""
        return count / self.bytes_per_unit


def figure_text(points: Sequence[Point], settings: Mapping[str, Any]) -> FigureText:
    """Words and scale for these points. ``settings`` may have name, model, metric and memory_cap (bytes)."""
    memories = [point.memory for point in points if point.memory]
    largest = max(memories, default=0)
    unit, size = ("GB", 1e9) if largest >= 2e9 else ("MB", 1e6) if largest >= 2e6 else ("kB", 1e3)
    metric = next((point.metric_name for point in points), str(settings.get("metric") or "metric"))
    name = str(settings.get("name") or "study")
    model = settings.get("model")
    return FigureText(
        title=f"{metric[:1].upper()}{metric[1:]} against memory: {name}"
        + (f" ({_short_model(str(model))})" if model else ""),
        subtitle=_subtitle(points, settings),
        counts=_counts(points),
        x_label=f"peak of tensor bytes while training ({unit})",
        y_label=f"validation {metric}",
        unit=unit,
        bytes_per_unit=size,
        log_x=bool(memories) and largest / min(memories) > _LOG_FROM_RATIO,
    )


def _short_model(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2] or model


def _subtitle(points: Sequence[Point], settings: Mapping[str, Any]) -> str:
    cap, parts = settings.get("memory_cap"), []
    if isinstance(cap, int):
        parts.append(f"Memory cap {format_bytes(cap)}, compared with the device peak")
    devices = [point.device for point in points if point.device is not None]
    meters = sorted({point.meter for point in points if point.meter})
    if devices:
        by = f" (meter: {', '.join(meters)})" if meters else ""
        parts.append(f"highest device peak {format_bytes(max(devices))}{by}")
    return ", ".join(parts)


def _counts(points: Sequence[Point]) -> str:
    if not points:
        return "No trial has finished yet"
    ended = {status: sum(point.status is status for point in points) for status in Status}
    words = [f"{count} {status.value.replace('_', ' ')}" for status, count in ended.items() if count]
    unmeasured = sum(not point.memory for point in points)
    unseen = f" ({unmeasured} without a measured peak, not shown)" if unmeasured else ""
    return f"{len(points)} trial{'s' if len(points) != 1 else ''}: {', '.join(words)}{unseen}"


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
    rest = [point for point in points if point.number not in members and point.memory]
    placed = [point for point in rest if point.metric is not None and math.isfinite(point.metric)]
    return Layers(
        front=front,
        dominated=[point for point in placed if point.status is Status.COMPLETE],
        ended=[point for point in placed if point.status is not Status.COMPLETE],
        without_metric=[point for point in rest if point.metric is None or not math.isfinite(point.metric)],
    )


def metric_range(layered: Layers) -> tuple[float, float]:
    """Lower and upper end of the metric's axis, with room around, also where all values are equal."""
    values = [point.metric for point in layered.drawn if point.metric is not None]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    span = high - low or max(abs(high) * 0.1, 0.01)
    return low - 0.14 * span, high + 0.14 * span


def memory_range(points: Iterable[Point], text: FigureText) -> tuple[float, float]:
    """Lower and upper end of the memory's axis in the axis' unit, with room for the names."""
    values = [text.in_unit(point.memory) for point in points if point.memory]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if text.log_x:
        return low / 1.35, high * 1.35
    span = high - low or 0.2 * high
    return max(0.0, low - 0.1 * span), high + 0.1 * span


def stepped(front: Sequence[Point], text: FigureText, until: float) -> tuple[list[float], list[float]]:
    """The front as a staircase: for every amount of memory the best metric that it buys, up to the axis' end."""
    xs: list[float] = []
    ys: list[float] = []
    for point in front:
        if ys:
            xs.append(text.in_unit(point.memory or 0))
            ys.append(ys[-1])
        xs.append(text.in_unit(point.memory or 0))
        ys.append(float(point.metric or 0.0))
    if xs:
        xs.append(until)
        ys.append(ys[-1])
    return xs, ys


def write_html(
    path: Path, points: Sequence[Point], settings: Mapping[str, Any], *, selected: int | None = None
) -> None:
    """Write the page; see :func:`front_html`."""
    path.write_text(front_html(points, settings, selected=selected), encoding="utf-8")


def front_html(points: Sequence[Point], settings: Mapping[str, Any], *, selected: int | None = None) -> str:
    """One page with the whole script in it: no address is loaded, every name is escaped."""
    import plotly.graph_objects as go

    text, layered = figure_text(points, settings), layers(points)
    x_range, y_range = memory_range(points, text), metric_range(layered)
    figure = go.Figure()
    figure.add_trace(_trace(go, layered.dominated, text, "beaten by another", GREY, "circle", 9))
    for status, (_, symbol, words) in MARKERS.items():
        of_status = [point for point in layered.ended if point.status is status]
        figure.add_trace(_trace(go, of_status, text, words, WARN, symbol, 10))
    figure.add_trace(
        _trace(go, layered.without_metric, text, "ended without a metric", WARN, "line-ns-open", 12, floor=y_range[0])
    )
    xs, ys = stepped(layered.front, text, x_range[1])
    figure.add_trace(
        go.Scatter(x=xs, y=ys, mode="lines", line={"color": ACCENT, "width": 2}, hoverinfo="skip", showlegend=False)
    )
    figure.add_trace(_trace(go, layered.front, text, "on the front", ACCENT, "circle", 12, named=True))
    chosen = [point for point in layered.front if point.number == selected]
    figure.add_trace(_trace(go, chosen, text, "selected", "rgba(0,0,0,0)", "circle-open", 22, ring=INK))
    figure.update_layout(
        title={
            "text": f"<b>{html.escape(text.title)}</b><br><sub>{html.escape(text.subtitle)}</sub>"
            f"<br><sub>{html.escape(text.counts)}</sub>",
            "x": 0.02,
            "xanchor": "left",
        },
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "color": INK, "size": 14},
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "y": -0.18},
        margin={"t": 110, "r": 40},
        xaxis={"title": {"text": html.escape(text.x_label)}, "range": _axis(x_range, log=text.log_x)}
        | ({"type": "log"} if text.log_x else {}),
        yaxis={"title": {"text": html.escape(text.y_label)}, "range": list(y_range)},
    )
    page: str = figure.to_html(
        include_plotlyjs=True,
        full_html=True,
        config={"displaylogo": False, "responsive": True, "showSendToCloud": False},
        default_height="92vh",
    )
    title = html.escape(text.title)
    return page.replace("<head>", f"<head><title>{title}</title>", 1)


def _axis(limits: tuple[float, float], *, log: bool) -> list[float]:
    return [math.log10(limit) for limit in limits] if log else list(limits)


def _trace(
    go: Any,
    points: Sequence[Point],
    text: FigureText,
    name: str,
    color: str,
    symbol: str,
    size: int,
    *,
    named: bool = False,
    floor: float | None = None,
    ring: str | None = None,
) -> Any:
    line = {"width": 2, "color": ring or ("#ffffff" if named else color)}
    return go.Scatter(
        x=[text.in_unit(point.memory or 0) for point in points],
        y=[point.metric if floor is None else floor for point in points],
        mode="markers+text" if named else "markers",
        text=[f"#{point.number}" for point in points] if named else None,
        textposition="top left",
        marker={"color": color, "symbol": symbol, "size": size, "line": line},
        name=name,
        showlegend=bool(points),
        hovertext=[hover(point) for point in points],
        hoverinfo="text",
    )


def hover(point: Point) -> str:
    """What a browser shows under the pointer; every text in it is escaped."""
    rows = [f"<b>#{point.number} {html.escape(point.label)}</b>", html.escape(point.status.value.replace("_", " "))]
    if point.metric is not None:
        rows.append(f"validation {html.escape(point.metric_name)}: {point.metric:.4f}")
    rows += [f"test {html.escape(name)}: {value:.4f}" for name, value in point.test_metrics.items()]
    if point.memory is not None:
        rows.append(f"peak of tensor bytes: {format_bytes(point.memory)}")
    if point.device is not None:
        rows.append(
            f"device peak: {format_bytes(point.device)}" + (f", {html.escape(point.meter)}" if point.meter else "")
        )
    if point.trainable_parameters is not None:
        rows.append(f"trainable parameters: {point.trainable_parameters:,}")
    rows.append(f"{point.seconds:.1f} s")
    if point.reason:
        rows.append(html.escape(point.reason[:160]))
    return "<br>".join(rows)
