"""The front as a picture: what each amount of memory buys, and beside it the same trials by what the cap compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autotune.outcome import Status
from autotune.report.axes import number
from autotune.report.figures import (
    MARKERS,
    Chart,
    FigureText,
    Layers,
    Refused,
    cap_of,
    figure_text,
    hint,
    layers,
    mark_of,
    stepped,
)
from autotune.report.front import Point
from autotune.report.front_view import BOTTOM, HEIGHT, KEY, LEFT, TOP, WIDTH, View, views_of
from autotune.report.key import draw_key
from autotune.report.labels import Box, Name, put_names
from autotune.report.legend import Entry, draw_legend
from autotune.report.lettering import clean, fit, width, wrap
from autotune.report.scene import Circle, Line, Mark, Scene, Shape, Words, box, glyph, hint_lines
from autotune.report.select import Selection
from autotune.units import format_bytes

_SMALL_NAMES = 60  # with more trials, those off the front have their numbers under the pointer only


def front_chart(
    points: Sequence[Point],
    settings: Mapping[str, Any],
    *,
    selection: Selection | None = None,
    refused: Iterable[Refused] = (),
) -> Chart:
    """The front with every trial and every refusal marked.

    On the left over the peak of tensor bytes, by which the front is ranked; on the right over the device peak, where the
    cap is a line: the two differ by what a process holds besides tensors, which is not the same for each trial, so the
    cap has no one place on the left.
    """
    refused = list(refused)
    text, layered = figure_text(points, settings, refused), layers(points)
    scene = Scene(WIDTH, HEIGHT, text.title)
    selected = selection.point.number if selection else None
    _head(scene, text, selection)
    views = views_of(points, layered, settings, text, refused)
    for view in views:
        _draw(scene, view, points, layered, text, settings, refused, selected)
    draw_key(scene, layered.front, text, selected, left=KEY, right=WIDTH - 26, top=TOP - 6, bottom=BOTTOM + 45)
    below = [point for point in layered.drawn if views[0].metrics.below(point.ranked_metric)]
    entries = _entries(layered, settings, refused, selected)
    entries += [Entry("arrow-down", "muted", f"{len(below)} far below, out of scale")] if below else []
    draw_legend(scene, entries, left=LEFT - 50, right=WIDTH - 26, y=628)
    caption = (
        "Left: the metric over the peak of tensor bytes; the line is the front, the best that each amount of memory buys. "
        "Right: the same trials over the device peak, which is what the cap (the line) compares; refused configurations stand "
        "on the lower edge at their predicted memory. A mark over an arrow downwards lies too far below for the axis."
    )
    return Chart(name="front", title="The accuracy-memory front", caption=caption, scene=scene)


def _distinct(refused: Iterable[Refused]) -> list[Refused]:
    """One refusal of each name and prediction: others would lie exactly on it."""
    found: dict[tuple[str, object], Refused] = {}
    for one in refused:
        found.setdefault((one.candidate.label, one.predicted), one)
    return list(found.values())


def _head(scene: Scene, text: FigureText, selection: Selection | None) -> None:
    room = WIDTH - 56
    scene.add(Words(x=28, y=36, text=fit(text.title, room, 19, bold=True), size=19, bold=True))
    lines = [text.subtitle, text.counts]
    picked = [] if selection is None else wrap(f"Selected: {selection.explanation}", room, 12.5, lines=2)
    for row, words in enumerate([line for line in lines if line]):
        scene.add(Words(x=28, y=60 + 19 * row, text=fit(words, room, 12.5), size=12.5, role="muted"))
    for row, words in enumerate(picked):
        scene.add(Words(x=28, y=60 + 19 * (len([line for line in lines if line]) + row), text=words, size=12.5))


def _draw(
    scene: Scene,
    view: View,
    points: Sequence[Point],
    layered: Layers,
    text: FigureText,
    settings: Mapping[str, Any],
    refused: Sequence[Refused],
    selected: int | None,
) -> None:
    panel, tensors, cap = view.panel, view.kind == "tensors", cap_of(settings)
    names = "what it costs to train" if tensors else "what the cap compares"
    label = f"peak of tensor bytes ({view.unit.name})" if tensors else f"device peak ({view.unit.name})"
    label += ", log scale" if panel.x.log else ""
    taken: list[Box] = []
    shaded = cap is not None and not tensors
    if cap is not None and shaded:  # under the grid, whose lines do not cross the cap's own line and words
        scene.add(box(view.x(cap), panel.top, panel.right, panel.bottom, fill="over"))
    name = text.y_label if tensors else ""
    panel.frame(scene, x_label=label, y_label=name, y_ticks=view.metrics.ticks, y_numbers=tensors)
    view.metrics.draw_floor(scene, panel)
    if cap is not None and shaded:
        taken = _cap(scene, view, cap)
    scene.add(Words(x=panel.left, y=panel.top - 9, text=names, size=11, role="muted"))
    steps = _staircase(scene, view, layered) if tensors else []
    if not (layered.drawn or layered.without_metric or refused):
        middle = (panel.left + panel.right) / 2
        words = "no trial to show yet"
        scene.add(Words(x=middle, y=(panel.top + panel.bottom) / 2, text=words, size=13, role="muted", anchor="middle"))
    _edge(scene, view, layered, refused)
    places = []
    for point in [*layered.ended, *layered.dominated, *layered.front]:
        count = view.bytes_of(point)
        if not count:
            continue
        x, y = view.x(count), view.y(point.ranked_metric)
        places.append((x, y))
        form, role, kind = mark_of(point)
        on_front = kind == "front"
        shapes = glyph(form, x, y, 6.5 if on_front else 4.8, role, rim="paper" if on_front else None)
        shapes += view.metrics.arrow(x, point.ranked_metric, role)
        if on_front and tensors:
            places += _seeds(scene, view, point, x)
        ring = (Circle(x=x, y=y, radius=11.5, stroke="ink", width=1.8),) if point.number == selected else ()
        value = view.unit.of_bytes(count)
        scene.add(
            Mark(shapes=(*shapes, *ring), kind=kind, hint=hint(point), number=point.number, x=value, y=point.metric)
        )
    put_names(scene, panel, _names(view, points, layered), places, taken, [steps])


def _cap(scene: Scene, view: View, cap: int) -> list[Box]:
    panel, x = view.panel, view.x(cap)
    words = f"cap {number(view.unit.of_bytes(cap))} {view.unit.name}"
    line = Line(points=((x, panel.top), (x, panel.bottom)), stroke="cap", width=2.0, dash=(7, 4))
    long = width(words, 11.5, bold=True)
    near_end = x > panel.right - long - 12
    left = x - 6 - long if near_end else x + 6
    name = Words(
        x=x - 6 if near_end else x + 6, y=panel.top + 14, text=words, size=11.5, role="cap", bold=True,
        anchor="end" if near_end else "start",
    )  # fmt: skip
    behind = box(left - 2, panel.top + 1, left + long + 2, panel.top + 19, fill="paper" if near_end else "over")
    scene.add(behind)
    said = hint_lines(f"memory cap {format_bytes(cap)}", "compared with each trial's device peak")
    scene.add(Mark(shapes=(line, name), kind="cap", hint=said, x=view.unit.of_bytes(cap)))
    return [(min(x - 4, left - 4), panel.top, max(x + 4, left + long + 4), panel.top + 20)]


def _staircase(scene: Scene, view: View, layered: Layers) -> list[tuple[float, float]]:
    panel = view.panel
    corners = stepped(layered.front, panel.x.high * view.unit.size)
    steps = [(view.x(memory), view.y(metric)) for memory, metric in corners]
    if steps:
        under = (*steps, (steps[-1][0], panel.bottom), (steps[0][0], panel.bottom))
        scene.add(Line(points=under, fill="wash"), Line(points=tuple(steps), stroke="accent", width=2.0))
    return steps


def _seeds(scene: Scene, view: View, point: Point, x: float) -> list[tuple[float, float]]:
    """Mean and spread of the other seeds, a little to the right of the search's own value; the pixels that they take."""
    mean, spread = point.confirmed_mean, point.confirmed_spread
    if mean is None:
        return []
    at, y = min(x + 11, view.panel.right), view.y(mean)
    low, high = view.panel.y.at(mean - (spread or 0.0)), view.panel.y.at(mean + (spread or 0.0))
    shapes: list[Shape] = []
    if spread is not None and not view.metrics.below(mean):  # out of scale, its ends are nowhere
        shapes.append(Line(points=((at, low), (at, high)), stroke="ink", width=1.6))
        shapes += [Line(points=((at - 4, end), (at + 4, end)), stroke="ink", width=1.6) for end in (low, high)]
    shapes += glyph("diamond", at, y, 3.8, "paper", rim="ink")
    shapes += view.metrics.arrow(at, mean, "ink")
    value = view.unit.of_bytes(point.ranked_memory)
    scene.add(Mark(shapes=tuple(shapes), kind="seeds", hint=hint(point), number=point.number, x=value, y=mean))
    if view.metrics.below(mean):
        return [(at, y)]
    return [(at, y), *((at, high + 8 * step) for step in range(int((low - high) / 8) + 1))]


def _edge(scene: Scene, view: View, layered: Layers, refused: Sequence[Refused]) -> None:
    """What has no metric stands on the lower edge: ended trials at what they took, refused ones at their prediction."""
    bottom = view.panel.bottom
    for point in layered.without_metric:
        count = view.bytes_of(point)
        if count:
            form, role, _ = mark_of(point)
            shapes = glyph(form, view.x(count), bottom - 7, 4.6, role)
            value = view.unit.of_bytes(count)
            scene.add(Mark(shapes=shapes, kind="no-metric", hint=hint(point), number=point.number, x=value))
    beyond = 0
    for one in _distinct(refused):
        count = view.predicted(one)
        if not count:
            continue
        value = view.unit.of_bytes(count)
        outside = value > view.panel.x.high
        beyond += outside
        x = view.panel.right - 5 if outside else view.x(count)
        shapes = glyph("triangle-right" if outside else "bar", x, bottom - 7, 5.2, "cap")
        said = hint_lines(
            f"refused: {clean(one.candidate.label)[:200]}",
            f"predicted {view.kind}: {format_bytes(count)}",
            clean(one.reason)[:200],
        )
        scene.add(Mark(shapes=shapes, kind="refused", hint=said, x=value))
    if beyond:
        words = f"{beyond} beyond"
        scene.add(Words(x=view.panel.right - 3, y=bottom - 19, text=words, size=10.5, role="cap", anchor="end"))


def _names(view: View, points: Sequence[Point], layered: Layers) -> list[Name]:
    names = []
    tensors = view.kind == "tensors"
    for point in sorted(layered.front, key=lambda point: -point.ranked_metric):
        count = view.bytes_of(point)
        if count:
            short = f"#{point.number}"
            label = fit(" ".join(point.label.split()[:2]), 130, 11)
            names.append(
                Name(
                    x=view.x(count), y=view.y(point.ranked_metric), text=f"{short} {label}" if tensors else short,
                    short=short, role="accent", size=11.5, bold=not tensors, far=tensors,
                )
            )  # fmt: skip
    if tensors and len(points) <= _SMALL_NAMES:
        for point in [*layered.ended, *layered.dominated]:
            count = view.bytes_of(point)
            if count:
                short = str(point.number)
                below = view.metrics.below(point.ranked_metric)
                words = f"{short} at {number(point.ranked_metric)}" if below else short
                place = view.x(count), view.y(point.ranked_metric)
                names.append(Name(x=place[0], y=place[1], text=words, short=short, role="muted", size=9.5, far=False))
    return names


def _entries(
    layered: Layers,
    settings: Mapping[str, Any],
    refused: Sequence[Refused],
    selected: int | None,
) -> list[Entry]:
    entries = []
    if layered.front:
        entries.append(Entry("circle", "accent", "on the front"))
    if any(point.number == selected for point in layered.front):
        entries.append(Entry("ring", "ink", "selected"))
    if any(point.confirmed for point in layered.front):
        entries.append(Entry("seeds", "ink", "mean and spread of other seeds"))
    if layered.dominated:
        entries.append(Entry("circle", "grey", "beaten by another"))
    seen = {point.status for point in (*layered.ended, *layered.without_metric)}
    entries += [Entry(form, "warn", words) for status, (form, words) in MARKERS.items() if status in seen]
    if Status.COMPLETE in {point.status for point in layered.without_metric}:
        entries.append(Entry("circle", "grey", "complete without a metric"))
    if any(one.predicted for one in refused):
        entries.append(Entry("bar", "cap", "refused, at its predicted memory"))
    if cap_of(settings) is not None:
        entries.append(Entry("dashes", "cap", "memory cap"))
    return entries
