"""The legend of a figure, in rows as wide as the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from autotune.report.lettering import fit, width
from autotune.report.scene import Circle, Form, Line, Scene, Shape, Words, box, glyph


@dataclass(frozen=True)
class Entry:
    """One sign and what it says: a form of :func:`glyph`, or ring, seeds, dashes, line, box."""

    form: str
    role: str
    words: str
    dash: tuple[float, ...] = ()
    lined: bool = False  # on a piece of its line


def draw_legend(
    scene: Scene, entries: Sequence[Entry], *, left: float, right: float, y: float, size: float = 11.5
) -> float:
    """Draw the entries from the left, in as many rows as they need; returns the last row's y."""
    x = left
    for entry in entries:
        words = fit(entry.words, right - left - 30, size)
        wide = 30 + width(words, size)
        if x > left and x + wide > right:
            x, y = left, y + size * 1.7
        scene.add(*_sign(entry, x + 10, y - size * 0.36), Words(x=x + 24, y=y, text=words, size=size))
        x += wide + 16
    return y


def _sign(entry: Entry, x: float, y: float) -> Sequence[Shape]:
    if entry.form == "ring":
        return (Circle(x=x, y=y, radius=7, stroke=entry.role, width=1.8),)
    if entry.form in ("dashes", "line"):
        dash: Any = (5, 3) if entry.form == "dashes" else entry.dash
        return (Line(points=((x - 10, y), (x + 9, y)), stroke=entry.role, width=2, dash=dash),)
    if entry.form == "box":
        return (box(x - 8, y - 6, x + 6, y + 6, fill=entry.role),)
    if entry.form == "seeds":
        bar = Line(points=((x, y - 8), (x, y + 8)), stroke=entry.role, width=1.6)
        return (bar, *glyph("diamond", x, y, 3.8, "paper", rim=entry.role))
    if entry.lined:
        line = Line(points=((x - 11, y), (x + 11, y)), stroke=entry.role, width=2, dash=entry.dash)
        return (line, *glyph(cast(Form, entry.form), x, y, 4.8, entry.role))
    return glyph(cast(Form, entry.form), x, y, 4.8, entry.role)
