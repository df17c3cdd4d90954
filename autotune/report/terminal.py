"""The front as a small plot of characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from autotune.report.axes import Scale, scale, tick_words, wide_range
from autotune.report.figures import MemoryUnit, layers, stepped
from autotune.report.front import Point
from autotune.report.lettering import clean
from autotune.report.reach import far_below

# bits of the eight dots of a braille sign, by column and row
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800
_LEAST_WIDTH = 32


class _Canvas:
    """Characters, each of 2 x 4 dots where braille can be drawn, else of one."""

    def __init__(self, columns: int, rows: int, *, braille: bool) -> None:
        self.across, self.along = (2, 4) if braille else (1, 1)
        self.columns, self.rows = columns, rows
        self._dots = [[0] * columns for _ in range(rows)]
        self._signs: dict[tuple[int, int], str] = {}
        self._braille = braille

    def dot(self, x: int, y: int, *, upright: bool = False) -> None:
        """Set a dot, in dots from the upper left; ``upright``: of a line that goes up."""
        self._dots[y // self.along][x // self.across] |= _DOTS[x % 2][y % 4] if self._braille else 2 if upright else 1

    def sign(self, x: int, y: int, sign: str, *, over: bool = True) -> None:
        """A character where a dot lies."""
        place = (y // self.along, x // self.across)
        if over or place not in self._signs:
            self._signs[place] = sign

    def text(self, x: int, y: int, words: str) -> bool:
        """Words from a dot on, where all their places are free and in the canvas."""
        row, column = y // self.along, x // self.across
        places = [(row, column + index) for index in range(len(words))]
        if column < 0 or column + len(words) > self.columns or any(place in self._signs for place in places):
            return False
        self._signs.update(zip(places, words, strict=True))
        return True

    def lines(self) -> list[str]:
        """The rows from the top."""
        return ["".join(self._at(row, column) for column in range(self.columns)).rstrip() for row in range(self.rows)]

    def _at(self, row: int, column: int) -> str:
        dots = self._dots[row][column]
        plain = " " if not dots else chr(_BRAILLE + dots) if self._braille else "-" if dots == 1 else "|"
        return self._signs.get((row, column), plain)


def can_encode(encoding: str | None) -> bool:
    """Whether an output of this encoding shows the signs of the finer plot."""
    try:
        "⣿●·│─└…".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def plot_front(fronts: Sequence[Sequence[Point]], *, columns: int, rows: int = 14, fine: bool = True) -> list[str]:
    """Lines of text: the staircase of each front with the numbers of its members; trials beside the fronts as dots.

    fronts: the points of each study; more than one are told apart by the letters a, b, c, … at their members. columns: width of the
    terminal. fine: draw with braille and not only with ASCII. No lines where no point can be drawn.
    """
    layered = [layers(points) for points in fronts]
    drawn = [point for one in layered for point in (*one.front, *one.dominated)]
    if not drawn or columns < _LEAST_WIDTH:
        return []
    unit = MemoryUnit.of([point.memory for point in drawn])
    memories = [unit.of_bytes(point.ranked_memory) for point in drawn]
    members = [point.ranked_metric for one in layered for point in one.front]
    limit = far_below(members, [point.ranked_metric for point in drawn])
    far = [point for point in drawn if point.ranked_metric < limit]
    heights = [point.ranked_metric for point in drawn if point.ranked_metric >= limit]
    margin = max((len(words) for _, words in tick_words(scale(heights, 0, 1, room=0.1), 4)), default=1) + 2
    canvas = _Canvas(min(columns, 110) - margin, rows, braille=fine)
    log = wide_range([memory for memory in memories if memory > 0]) and min(memories) > 0
    x = scale(memories, 0, canvas.columns * canvas.across - 1, log=log, room=0.08)
    y = scale(heights, canvas.rows * canvas.along - 1, 0, room=0.1)
    for one in layered:
        corners = [(x.at(unit.of_bytes(m)), y.at(v)) for m, v in stepped(one.front, x.high * unit.size)]
        _draw_line(canvas, corners)
        for point in one.dominated:
            canvas.sign(*_dot(point, unit, x, y), "v" if point in far else "·" if fine else ".", over=False)
    for index, one in enumerate(layered):
        letter = "" if len(layered) == 1 else chr(ord("a") + index % 26)
        for point in one.front:
            canvas.sign(*_dot(point, unit, x, y), letter or ("●" if fine else "o"))
    for one in layered:
        for point in reversed(one.front):
            _name(canvas, *_dot(point, unit, x, y), str(point.number))
    metric = clean(drawn[0].metric_name)
    axis, corner, rule = ("│", "└", "─") if fine else ("|", "+", "-")
    labels = _y_labels(y, canvas, margin)
    lines = [f"{label}{axis}{line}" for label, line in zip(labels, canvas.lines(), strict=True)]
    lines.append(" " * (margin - 1) + corner + rule * canvas.columns)
    lines.append(" " * margin + _x_labels(x, canvas))
    words = f"validation {metric} over peak of tensor bytes ({unit.name}{', log scale' if log else ''})"
    below = [f"on the lower edge: {len(far)} far below, out of scale"] if far else []
    said = [words if fine else words.encode("ascii", "replace").decode(), *below]
    return [*lines, *(" " * margin + line[: columns - margin] for line in said)]


def _y_labels(y: Scale, canvas: _Canvas, margin: int) -> list[str]:
    labels = {int(y.at(tick)) // canvas.along: words for tick, words in tick_words(y, 4)}
    return [f"{labels.get(row, ''):>{margin - 1}}" for row in range(canvas.rows)]


def _x_labels(x: Scale, canvas: _Canvas) -> str:
    line = [" "] * canvas.columns
    free = 0
    for tick, words in tick_words(x, max(2, canvas.columns // 14)):
        begin = min(max(0, int(x.at(tick)) // canvas.across - len(words) // 2), canvas.columns - len(words))
        if begin >= free:
            line[begin : begin + len(words)] = words
            free = begin + len(words) + 2
    return "".join(line).rstrip()


def _dot(point: Point, unit: MemoryUnit, x: Scale, y: Scale) -> tuple[int, int]:
    return round(x.at(unit.of_bytes(point.ranked_memory))), round(y.at(point.ranked_metric))


def _draw_line(canvas: _Canvas, corners: Sequence[tuple[float, float]]) -> None:
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps = max(1, math.ceil(max(abs(x1 - x0), abs(y1 - y0))))
        for step in range(steps + 1):
            canvas.dot(round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps), upright=x0 == x1)


def _name(canvas: _Canvas, x: int, y: int, words: str) -> None:
    """The number to the upper left of its mark, or beside it where there is room."""
    wide = len(words) * canvas.across
    for left, top in (
        (x - wide, y - canvas.along),
        (x - wide - canvas.across, y),
        (x, y - canvas.along),
        (x + 2 * canvas.across, y),
    ):
        if 0 <= top < canvas.rows * canvas.along and canvas.text(left, top, words):
            return
