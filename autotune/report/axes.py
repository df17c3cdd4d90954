"""Axes: from values to pixels, ticks at round values, and the frame of a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from autotune.report.lettering import fit, width
from autotune.report.scene import Line, Scene, Words

LOG_FROM_RATIO = 20.0
_LARGEST = 1e250  # so that no sum or product of what an axis does overflows


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Values from ``low`` to ``high`` on pixels from ``begin`` to ``end``; by ratio where ``log``."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; one beyond an end of the axis is put on that end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self, about: int = 6) -> list[float]:
        """Round values on the axis."""
        return _log_ticks(self.low, self.high, about) if self.log else _ticks(self.low, self.high, about)


def scale(values: Iterable[float], begin: float, end: float, *, log: bool = False, room: float = 0.08) -> Scale:
    """A scale that holds these values with room around, also where there are none or all are equal."""
    values = [math.copysign(min(abs(value), _LARGEST), value) for value in values if math.isfinite(value)]
    if log:
        values = [max(value, 1 / _LARGEST) for value in values]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log and low > _LEAST and high < 1 / _LEAST:
        factor = max((high / low) ** room, 1.15)
        return Scale(low=low / factor, high=high * factor, begin=begin, end=end, log=True)
    span = high - low
    if not span > max(abs(high), abs(low)) * 1e-9:
        span = max(abs(high) * 0.1, abs(low) * 0.1) or 0.01
    return Scale(low=low - room * span, high=high + room * span, begin=begin, end=end)


_LEAST = 1e-100
"""What is less is shown as 0: powers of it are no numbers of the machine any more."""


def wide_range(values: Iterable[float]) -> bool:
    """Whether values differ so much that they are shown by ratio."""
    values = list(values)
    return bool(values) and min(values) > _LEAST and max(values) / min(values) > LOG_FROM_RATIO


def _ticks(low: float, high: float, about: int) -> list[float]:
    rough = (high - low) / max(1, about)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(part * power for part in (1, 2, 2.5, 5, 10) if part * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(count * step, 12) for count in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [part * 10.0**power for power in powers for part in parts if low <= part * 10.0**power <= high]
        if len(found) <= about + 1:
            break
    if len(found) >= 2:
        return found[:: math.ceil(len(found) / (about + 1))]
    return _ticks(low, high, about) or [low]


def number(value: float) -> str:
    """A value in few signs, e.g. beside a line; ticks of an axis are written alike by :func:`numbers`."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        return f"{value:.3g}"
    return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.5g}"


def numbers(values: Sequence[float], *, least: int = 0, within: float = 1e-3, log: bool = False) -> list[str]:
    """Values that stand beside each other in one notation, with as many digits as tell them apart.

    least: the fewest decimals. within: what rounding may take away, as a share of the smallest step between two values.
    log: they differ by ratio, so each has the digits that it needs.
    """
    largest = max((abs(value) for value in values), default=0.0)
    ordered = sorted(set(values))
    step = min((above - below for below, above in pairwise(ordered)), default=largest or 1.0)
    small = min((abs(value) for value in values if value), default=largest) if log else largest
    if largest >= _FROM_POWER or 0 < small < 1e-4:
        return _powers(values, 0.0 if log else step * within)
    if log:
        return [f"{value:.6f}".rstrip("0").rstrip(".") if abs(value) < 1 else f"{value:.6g}" for value in values]
    found = (decimals for decimals in range(least, 15) if _told(values, decimals, step * within))
    decimals = next(found, 15)
    return [f"{value:.{decimals}f}" if round(value, decimals) else f"{0:.{least}f}" for value in values]


_FROM_POWER = 1e6
"""Numbers from here on are written with a power of ten."""


def _told(values: Sequence[float], decimals: int, off: float) -> bool:
    """Whether values that are rounded to so many decimals are off by no more than this."""
    return all(abs(round(value, decimals) - value) <= max(off, abs(value) * 1e-15) for value in values)


def _powers(values: Sequence[float], off: float) -> list[str]:
    """``-4.12e9``, all with the same decimals; with ``off`` 0 each with its own, three digits at most."""

    def written(value: float, decimals: int) -> str:
        mantissa, _, power = f"{value:.{decimals}e}".partition("e")
        mantissa = mantissa if off or "." not in mantissa else mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(power)}" if value else "0"

    found = (n for n in range(15) if all(abs(float(f"{value:.{n}e}") - value) <= off for value in values))
    decimals = next(found, 15) if off else 2
    return [written(value, decimals) for value in values]


NAME_ROOM = 54.0
"""Between the upright axis and its name, where the ticks' words need no more."""
TICK_SIZE = 11.0


def label_room(scale: Scale) -> float:
    """What the words of an upright axis' ticks take, up to its name, in pixels."""
    return max(NAME_ROOM, 20 + max((width(words, TICK_SIZE) for _, words in tick_words(scale, 6)), default=0.0))


def tick_words(scale: Scale, about: int) -> list[tuple[float, str]]:
    """Round values on an axis with their words."""
    ticks = scale.ticks(about)
    return list(zip(ticks, numbers(ticks, log=scale.log), strict=True))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot: its two scales; y grows upwards, so its scale begins at the bottom."""

    x: Scale
    y: Scale

    @property
    def left(self) -> float:
        """Left end in pixels."""
        return self.x.begin

    @property
    def right(self) -> float:
        """Right end in pixels."""
        return self.x.end

    @property
    def top(self) -> float:
        """Upper end in pixels."""
        return self.y.end

    @property
    def bottom(self) -> float:
        """Lower end in pixels."""
        return self.y.begin

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of two values."""
        return self.x.at(x), self.y.at(y)

    def frame(
        self,
        scene: Scene,
        *,
        x_label: str = "",
        y_label: str = "",
        x_ticks: Sequence[tuple[float, str]] | None = None,
        y_ticks: Sequence[tuple[float, str]] | None = None,
        x_grid: bool = True,
        y_numbers: bool = True,
    ) -> None:
        """Grid, ticks and the axes' names; ticks are values with their words, by default round numbers."""
        across = max(2, int((self.right - self.left) / 75))
        x_ticks = tick_words(self.x, across) if x_ticks is None else x_ticks
        y_ticks = tick_words(self.y, 6) if y_ticks is None else y_ticks
        for value, words in x_ticks:
            at = self.x.at(value)
            if x_grid:
                scene.add(Line(points=((at, self.top), (at, self.bottom)), stroke="grid"))
            scene.add(Words(x=at, y=self.bottom + 18, text=words, size=TICK_SIZE, role="muted", anchor="middle"))
        for value, words in y_ticks:
            at = self.y.at(value)
            scene.add(Line(points=((self.left, at), (self.right, at)), stroke="grid"))
            if y_numbers:
                scene.add(Words(x=self.left - 8, y=at + 4, text=words, size=TICK_SIZE, role="muted", anchor="end"))
        scene.add(
            Line(points=((self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)), stroke="axis")
        )
        if x_label:
            room = self.right - self.left + 60
            middle = (self.left + self.right) / 2
            scene.add(Words(x=middle, y=self.bottom + 40, text=fit(x_label, room, 12.5), size=12.5, anchor="middle"))
        if y_label:
            middle = (self.top + self.bottom) / 2
            text = fit(y_label, self.bottom - self.top, 12.5)
            widest = max((width(words, TICK_SIZE) for _, words in y_ticks), default=0.0) if y_numbers else 0.0
            scene.add(
                Words(
                    x=self.left - max(NAME_ROOM, 20 + widest), y=middle, text=text, size=12.5, anchor="middle", turn=90
                )
            )
