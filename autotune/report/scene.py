"""A drawing as plain data: lines, circles and words in pixels, coloured by role. :mod:`autotune.report.svg` and
:mod:`autotune.report.picture` draw the same scene, so a page and a picture cannot differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Anchor = Literal["start", "middle", "end"]
Form = Literal[
    "circle", "square", "diamond", "triangle-down", "triangle-right", "arrow-down", "cross", "plus", "bar", "star"
]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points (x, y), closed and filled where ``fill`` is given."""

    points: tuple[tuple[float, float], ...]
    stroke: str | None = None
    fill: str | None = None
    width: float = 1.0
    dash: tuple[float, ...] = ()
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Circle:
    """A circle around (x, y)."""

    x: float
    y: float
    radius: float
    fill: str | None = None
    stroke: str | None = None
    width: float = 1.0
    opacity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Words:
    """One line of text whose baseline begins, is centred or ends at (x, y); ``turn`` in degrees, against the clock."""

    x: float
    y: float
    text: str
    size: float = 12.0
    role: str = "ink"
    anchor: Anchor = "start"
    bold: bool = False
    turn: float = 0.0


Shape = Line | Circle | Words


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What stands for one thing: its shapes, what is said of it under the pointer, and the number of its trial.

    kind: what it is, e.g. ``front``, ``refused``. x, y: the values it stands at, in the units of its axes.
    """

    shapes: tuple[Shape, ...]
    kind: str
    hint: str = ""
    number: int | None = None
    x: float | None = None
    y: float | None = None


@dataclass
class Scene:
    """Width and height in pixels, and what is drawn, from back to front."""

    width: float
    height: float
    title: str
    items: list[Shape | Mark] = field(default_factory=list)

    def add(self, *items: Shape | Mark) -> None:
        """Draw these over what is there."""
        self.items.extend(items)

    def marks(self, kind: str | None = None) -> list[Mark]:
        """The marks, of one kind where it is given."""
        return [item for item in self.items if isinstance(item, Mark) and kind in (None, item.kind)]

    @property
    def words(self) -> list[str]:
        """Every text that is seen without a pointer."""
        flat = [shape for item in self.items for shape in (item.shapes if isinstance(item, Mark) else (item,))]
        return [shape.text for shape in flat if isinstance(shape, Words)]


def box(left: float, top: float, right: float, bottom: float, **style: object) -> Line:
    """A rectangle."""
    corners = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    return Line(points=corners, **style)  # type: ignore[arg-type]  # the keywords of Line


_POLYGONS: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "diamond": ((0, -1.2), (1.0, 0), (0, 1.2), (-1.0, 0)),
    "triangle-down": ((-1.05, -0.85), (1.05, -0.85), (0, 1.05)),
    "triangle-right": ((-0.85, -1.05), (1.05, 0), (-0.85, 1.05)),
}
_STROKES: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "cross": (((-0.85, -0.85), (0.85, 0.85)), ((-0.85, 0.85), (0.85, -0.85))),
    "plus": (((-1.1, 0), (1.1, 0)), ((0, -1.1), (0, 1.1))),
    "bar": (((0, -1.3), (0, 1.3)),),
    "arrow-down": (((0, -1.4), (0, 1.2)), ((-0.85, 0.2), (0, 1.3), (0.85, 0.2))),
    "star": tuple(
        ((-math.cos(angle), -math.sin(angle)), (math.cos(angle), math.sin(angle)))
        for angle in (math.pi / 6, math.pi / 2, 5 * math.pi / 6)
    ),
}


def glyph(form: Form, x: float, y: float, size: float, role: str, *, rim: str | None = None) -> tuple[Shape, ...]:
    """The shapes of a mark: ``size`` is its radius; ``rim`` the role of a thin line around a filled one."""
    if form in _STROKES:
        return tuple(
            Line(points=tuple((x + size * dx, y + size * dy) for dx, dy in line), stroke=role, width=2.2)
            for line in _STROKES[form]
        )
    if form == "circle":
        return (Circle(x=x, y=y, radius=size, fill=role, stroke=rim, width=1.5),)
    corners = [(x + size * dx, y + size * dy) for dx, dy in _POLYGONS[form]]
    return (Line(points=(*corners, corners[0]), fill=role, stroke=rim, width=1.5),)


def hint_lines(*lines: str | None) -> str:
    """What is said under the pointer, a line each; empty ones are left out."""
    return "\n".join(line for line in lines if line)


def polyline(points: Sequence[tuple[float, float]], role: str, width: float = 1.8, **style: object) -> Line:
    """An open line."""
    return Line(points=tuple(points), stroke=role, width=width, **style)  # type: ignore[arg-type]  # the keywords of Line
