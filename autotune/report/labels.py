"""Putting names beside points so that no name lies on another, on a point or outside the plot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from autotune.report.axes import Panel
from autotune.report.lettering import width
from autotune.report.scene import Line, Scene, Words

_NEAR, _FAR = (9.0, 16.0), (26.0, 36.0, 48.0, 62.0)
# upper left first: nothing lies above and to the left of a front
_DIRECTIONS = ((-1, -1), (1, 1), (1, -1), (-1, 1), (0, -1), (0, 1), (-1, 0), (1, 0))

Box = tuple[float, float, float, float]
Place = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Name:
    """What is to stand beside the point at (x, y) in pixels; ``short`` where there is no room for ``text``."""

    x: float
    y: float
    text: str
    short: str
    role: str = "ink"
    size: float = 11.0
    bold: bool = False
    far: bool = True  # may stand far off, with a thin line to its point


@dataclass(frozen=True)
class Crowd:
    """What names keep clear of: marks, boxes (left, top, right, bottom), and where they can the lines through corners."""

    points: Sequence[Place]
    boxes: list[Box]
    lines: Sequence[Sequence[Place]]


def put_names(
    scene: Scene,
    panel: Panel,
    names: Sequence[Name],
    points: Sequence[Place],
    taken: Sequence[Box] = (),
    lines: Sequence[Sequence[Place]] = (),
) -> list[Name]:
    """Draws each name where there is room, in the given order, and returns those that found none.

    points: the pixels of every mark, which no name covers; taken: boxes to keep free; lines: corners of upright and
    level lines that names stay off where they can.
    """
    crowd, homeless = Crowd(points, list(taken), lines), []
    for name in names:
        found = _find(panel, name, crowd)
        if found is None:
            homeless.append(name)
            continue
        text, box, pointed = found
        crowd.boxes.append(box)
        if pointed:
            scene.add(Line(points=((name.x, name.y), _end(name, box)), stroke="muted", width=0.8))
        base = box[3] - 0.26 * name.size
        scene.add(Words(x=box[0], y=base, text=text, size=name.size, role=name.role, bold=name.bold))
    return homeless


def _find(panel: Panel, name: Name, crowd: Crowd) -> tuple[str, Box, bool] | None:
    far = _FAR if name.far else ()
    tries = [(name.text, _NEAR, True), (name.short, _NEAR, True), (name.text, far, True), (name.short, far, True)]
    tries += [(name.short, _NEAR, False), (name.short, far, False)]
    for text, distances, off_lines in tries:
        pointed = distances is _FAR
        for box in _around(name, text, distances):
            inside = panel.left + 2 < box[0] and box[2] < panel.right and panel.top < box[1] and box[3] < panel.bottom
            if not inside or any(_overlap(box, other) for other in crowd.boxes):
                continue
            if any(_covers(box, *point) for point in crowd.points):
                continue
            on_line = off_lines and any(_meets(box, *pair) for line in crowd.lines for pair in pairwise(line))
            if not on_line and not (pointed and _obstructed(name, box, crowd)):
                return text, box, pointed
    return None


def _around(name: Name, text: str, distances: Sequence[float]) -> Iterator[Box]:
    wide, high = width(text, name.size, bold=name.bold) + 2, name.size * 1.25
    for distance in distances:
        for across, along in _DIRECTIONS:
            slant = 0.75 if across and along else 1.0
            x, y = name.x + across * distance * slant, name.y + along * distance * slant
            left = x - wide if across < 0 else x if across > 0 else x - wide / 2
            top = y - high if along < 0 else y if along > 0 else y - high / 2
            yield left, top, left + wide, top + high


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _covers(box: Box, x: float, y: float, room: float = 5.0) -> bool:
    return box[0] - room < x < box[2] + room and box[1] - room < y < box[3] + room


def _meets(box: Box, one: Place, other: Place) -> bool:
    """Whether an upright or level line goes through the box."""
    across = box[0] - 3 < max(one[0], other[0]) and min(one[0], other[0]) < box[2] + 3
    return across and box[1] < max(one[1], other[1]) + 1 and min(one[1], other[1]) - 1 < box[3]


def _obstructed(name: Name, box: Box, crowd: Crowd) -> bool:
    """Whether the line from the box to its point goes over another name or another point."""
    end_x, end_y = _end(name, box)
    way = [(name.x + (end_x - name.x) * step / 8, name.y + (end_y - name.y) * step / 8) for step in range(1, 8)]
    others = [point for point in crowd.points if math.dist(point, (name.x, name.y)) > 1]
    over_name = any(_covers(other, x, y, 1.0) for x, y in way for other in crowd.boxes)
    return over_name or any(math.dist(point, place) < 6 for point in others for place in way)


def _end(name: Name, box: Box) -> Place:
    """Where the line from a far name to its point begins."""
    return min(max(name.x, box[0]), box[2]), min(max(name.y, box[1] + 2), box[3] - 1)
