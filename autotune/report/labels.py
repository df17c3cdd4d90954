"""Putting names beside points so that no name lies on another, on a point or outside the plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autotune.report.axes import Panel
from autotune.report.scene import Line, Scene, Words
from autotune.report.words import width

_NEAR, _FAR = (9.0, 16.0), (26.0, 40.0, 58.0, 80.0)
# upper left first: nothing lies above and to the left of a front
_DIRECTIONS = ((-1, -1), (1, 1), (1, -1), (-1, 1), (0, -1), (0, 1), (-1, 0), (1, 0))


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


Box = tuple[float, float, float, float]


def put_names(
    scene: Scene, panel: Panel, names: Sequence[Name], points: Sequence[tuple[float, float]], taken: Sequence[Box] = ()
) -> list[Name]:
    """Draws each name where there is room, in the given order, and returns those that found none.

    points: the pixels of every mark, which no name covers; taken: boxes (left, top, right, bottom) to keep free.
    """
    boxes, homeless = list(taken), []
    for name in names:
        found = _find(panel, name, points, boxes)
        if found is None:
            homeless.append(name)
            continue
        text, box, pointed = found
        boxes.append(box)
        if pointed:
            end = (min(max(name.x, box[0]), box[2]), box[3] if box[3] < name.y else max(box[1], min(name.y, box[3])))
            scene.add(Line(points=((name.x, name.y), end), stroke="axis", width=0.9))
        base = box[3] - 0.26 * name.size
        scene.add(Words(x=box[0], y=base, text=text, size=name.size, role=name.role, bold=name.bold))
    return homeless


def _find(
    panel: Panel, name: Name, points: Sequence[tuple[float, float]], boxes: Sequence[Box]
) -> tuple[str, Box, bool] | None:
    tries = [(name.text, _NEAR), (name.text, _FAR if name.far else ()), (name.short, _NEAR), (name.short, _FAR)]
    for text, distances in tries:
        for box in _around(name, text, distances):
            inside = panel.left + 2 < box[0] and box[2] < panel.right and panel.top < box[1] and box[3] < panel.bottom
            if (
                inside
                and not any(_overlap(box, other) for other in boxes)
                and not any(_covers(box, *p) for p in points)
            ):
                return text, box, distances is _FAR
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
