"""What happened inside trials: the metric and the loss after each epoch, and the memory that was held over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.outcome import EpochReport, TrialRecord
from autotune.report.axes import Panel, label_room, number, scale, wide_range
from autotune.report.figures import Chart, MemoryUnit, cap_of, hint, mark_of, nothing
from autotune.report.front import Point
from autotune.report.labels import Name, put_names
from autotune.report.legend import Entry, draw_legend
from autotune.report.lettering import clean
from autotune.report.palette import series
from autotune.report.reach import far_below
from autotune.report.scene import Line, Mark, Scene, Words, glyph
from autotune.units import format_bytes

EPOCHS, OVER_TIME = "epochs", "memory_over_time"


@dataclass(frozen=True)
class Curve:
    """One trial's values: x and y in the units of the axes."""

    point: Point
    values: list[tuple[float, float]]


def epochs_chart(records: Sequence[TrialRecord], points: Sequence[Point], settings: Mapping[str, Any]) -> Chart:
    """The validation metric and the training loss after each epoch of every trial."""
    title = "Learning curves"
    caption = (
        "A line for each trial over its epochs: members of the front in colour with their numbers, all others in grey. "
        "An arrow downwards: the metric of that epoch is too far below for the axis."
    )
    metric = next((point.metric_name for point in points), str(settings.get("metric") or "metric"))
    reached = _curves(records, points, lambda report: report.metrics.get(metric))
    limit = _limit(reached)
    losses = _curves(records, points, lambda report: report.train_loss)
    if not reached and not losses:
        return nothing(EPOCHS, title, caption, "No trial has finished an epoch with finite figures yet.")
    scene = Scene(1000, 520, title)
    scene.add(Words(x=28, y=34, text=title, size=17, bold=True))
    for curves, label, name_at, right, least in (
        (reached, f"validation {clean(metric)}", 28.0, 437.0, limit),
        (losses, "training loss", 518.0, 927.0, -math.inf),
    ):
        values = [y for curve in curves for _, y in curve.values if y >= least]
        epochs = [x for curve in curves for x, _ in curve.values]
        upright = scale(values, 430, 66, log=wide_range(values))
        panel = Panel(x=scale([*epochs, 1.0], name_at + label_room(upright), right, room=0.05), y=upright)
        whole = [tick for tick in panel.x.ticks(8) if tick == int(tick)] or [1.0]
        panel.frame(scene, x_label="epoch", y_label=label, x_ticks=[(tick, number(tick)) for tick in whole])
        _draw(scene, panel, curves, kind=EPOCHS)
    below = [Entry("arrow-down", "muted", "goes on far below")] if _below(reached, limit) else []
    scene.height = _legend(scene, [*reached, *losses], y=498, more=below) + 22
    return Chart(name=EPOCHS, title=title, caption=caption, scene=scene)


def _limit(curves: Sequence[Curve]) -> float:
    """The metric under which curves leave the plot, so that those of the front can be told apart."""
    front = [y for curve in curves if curve.point.on_front for _, y in curve.values]
    ended = [curve.values[-1][1] for curve in curves if curve.point.may_stand_on_front]
    return far_below(front, ended)


def _below(curves: Sequence[Curve], low: float) -> bool:
    return any(y < low for curve in curves for _, y in curve.values)


def _inside(values: Sequence[tuple[float, float]], low: float) -> list[list[tuple[float, float]]]:
    """The pieces of a line that do not lie under ``low``, ended where it crosses."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for (x, y), (before_x, before) in zip(values, [values[0], *values], strict=False):
        if (y < low) != (before < low):
            crossing = before_x + (x - before_x) * (low - before) / (y - before), low
            pieces[-1:] = [[*pieces[-1], crossing], []] if y < low else [[crossing]]
        if y >= low:
            pieces[-1].append((x, y))
    return [piece for piece in pieces if piece]


def _curves(
    records: Sequence[TrialRecord], points: Sequence[Point], value: Callable[[EpochReport], float | None]
) -> list[Curve]:
    by_number = {point.number: point for point in points}
    found = []
    for record in records:
        if record.outcome is None:
            continue
        pairs = [(float(report.epoch), value(report)) for report in record.outcome.epochs]
        known = [(x, float(y)) for x, y in pairs if y is not None and math.isfinite(y)]
        if known:
            found.append(Curve(by_number[record.number], known))
    return found


def memory_chart(records: Sequence[TrialRecord], points: Sequence[Point], settings: Mapping[str, Any]) -> Chart:
    """What each trial's process held of the device over its time, with the cap as a line."""
    title = "Memory over time"
    caption = (
        "What each trial's process held of the device, from its start to its end, with the cap as a line: members of the "
        "front in colour with their numbers, all others in grey."
    )
    by_number = {point.number: point for point in points}
    held = [
        (by_number[record.number], [(at, count) for at, count in record.outcome.memory_over_time if math.isfinite(at)])
        for record in records
        if record.outcome is not None
    ]
    held = [(point, readings) for point, readings in held if readings]
    if not held:
        return nothing(OVER_TIME, title, caption, "No trial's memory was recorded over time.")
    cap = cap_of(settings)
    highest = max(count for _, readings in held for _, count in readings)
    near = cap is not None and cap <= 4 * highest
    unit = MemoryUnit.of([highest, cap if near else None])
    curves = [Curve(point, [(at, unit.of_bytes(count)) for at, count in readings]) for point, readings in held]
    values = [0.0, *(y for curve in curves for _, y in curve.values), *([unit.of_bytes(cap)] if near and cap else [])]
    times = [x for curve in curves for x, _ in curve.values]
    scene = Scene(1000, 520, title)
    scene.add(Words(x=28, y=34, text=title, size=17, bold=True))
    log = wide_range([time for time in (_last(curve) for curve in curves) if time > 0])
    starts = [max(time, max(times) / 1e4) for time in times] if log else [0.0, *times]
    panel = Panel(x=scale(starts, 82, 950, room=0.02, log=log), y=scale(values, 430, 66, room=0.05))
    label = "seconds since the trial's start" + (", log scale" if log else "")
    panel.frame(scene, x_label=label, y_label=f"device ({unit.name})")
    if cap is not None and near:
        at = panel.y.at(unit.of_bytes(cap))
        line = Line(points=((panel.left, at), (panel.right, at)), stroke="cap", width=2, dash=(7, 4))
        words = f"cap {number(unit.of_bytes(cap))} {unit.name}"
        name = Words(x=panel.left + 6, y=at - 6, text=words, size=11.5, role="cap", bold=True)
        scene.add(Mark(shapes=(line, name), kind="cap", hint=f"memory cap {format_bytes(cap)}", y=unit.of_bytes(cap)))
    elif cap is not None:
        words = f"The cap of {format_bytes(cap)} lies above the plot."
        scene.add(Words(x=28, y=54, text=words, size=12, role="muted"))
    _draw(scene, panel, curves, kind=OVER_TIME)
    scene.height = _legend(scene, curves, y=498) + 22
    return Chart(name=OVER_TIME, title=title, caption=caption, scene=scene)


def _last(curve: Curve) -> float:
    return max(x for x, _ in curve.values)


def _draw(scene: Scene, panel: Panel, curves: Sequence[Curve], *, kind: str) -> None:
    names: list[Name] = []
    ends_of: list[tuple[Curve, str, tuple[float, float]]] = []
    for curve, role, dash in _colored(curves):
        pieces = _inside(curve.values, panel.y.low)
        places = [panel.place(x, y) for x, y in curve.values]
        seen = [panel.place(x, y) for x, y in curve.values if y >= panel.y.low]
        front = curve.point.on_front
        width, opacity = (2.2, 1.0) if front else (1.2, 0.55)
        lines = [
            Line(
                points=tuple(panel.place(x, y) for x, y in piece), stroke=role, width=width, dash=dash, opacity=opacity
            )
            for piece in pieces
        ]
        form = "circle" if front else mark_of(curve.point)[0]
        ends = seen if len(places) == 1 or (front and kind == EPOCHS and len(places) < 40) else places[-1:]
        ends = [place for place in ends if place in seen]
        shapes = [shape for place in ends for shape in glyph(form, *place, 3.4 if front else 2.8, role)]
        shapes += [
            shape for x, y in curve.values if y < panel.y.low
            for shape in glyph("arrow-down", panel.x.at(x), panel.bottom - 8, 3.4, role)
        ]  # fmt: skip
        last = curve.values[-1]
        scene.add(
            Mark(
                shapes=(*lines, *shapes), kind=f"{kind} {'front' if front else 'other'}", hint=hint(curve.point),
                number=curve.point.number, x=last[0], y=last[1],
            )
        )  # fmt: skip
        if front and kind == EPOCHS:
            ends_of.append((curve, role, places[-1]))
        elif front:
            words = f"#{curve.point.number}"
            names.append(Name(x=places[-1][0], y=places[-1][1], text=words, short=words, role=role, bold=True))
    put_names(scene, panel, names, [(name.x, name.y) for name in names])
    _beside(scene, panel, ends_of)


def _beside(scene: Scene, panel: Panel, ends: list[tuple[Curve, str, tuple[float, float]]]) -> None:
    """Numbers to the right of the plot, as near to the height of their lines' ends as they fit under one another."""
    step = 14.0
    most = int((panel.bottom - panel.top) / step)
    ends = sorted(ends, key=lambda end: -end[0].point.ranked_metric)[:most]
    ends.sort(key=lambda end: end[2][1])
    heights: list[float] = []
    for index, (_, _, (_, y)) in enumerate(ends):
        lowest_left = panel.bottom - step * (len(ends) - 1 - index)
        heights.append(min(max(y, heights[-1] + step if heights else panel.top), lowest_left))
    for (curve, role, (x, y)), height in zip(ends, heights, strict=True):
        scene.add(
            Line(points=((x, y), (panel.right + 3, y), (panel.right + 15, height)), stroke=role, width=0.8, opacity=0.7)
        )
        words = f"#{curve.point.number}"
        scene.add(Words(x=panel.right + 18, y=height + 4, text=words, size=11, role=role, bold=True))


def _colored(curves: Iterable[Curve]) -> list[tuple[Curve, str, tuple[float, ...]]]:
    """Others first, so that the front lies over them."""
    curves = list(curves)
    front = sorted((curve for curve in curves if curve.point.on_front), key=lambda curve: curve.point.ranked_memory)
    others = [(curve, "grey", ()) for curve in curves if not curve.point.on_front]
    return [*others, *((curve, *series(index)) for index, curve in enumerate(front))]


def _legend(scene: Scene, curves: Sequence[Curve], *, y: float, more: Sequence[Entry] = ()) -> float:
    seen: dict[int, Entry] = {}
    for curve, role, dash in _colored({curve.point.number: curve for curve in curves}.values()):
        if curve.point.on_front and len(seen) < 24:
            seen[curve.point.number] = Entry("line", role, f"#{curve.point.number}", dash)
    entries = list(seen.values())
    if any(not curve.point.on_front for curve in curves):
        entries.append(Entry("line", "grey", "not on the front"))
    return draw_legend(scene, [*entries, *more], left=28, right=970, y=y)
