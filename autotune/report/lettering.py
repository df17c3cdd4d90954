"""Words in figures: what can be drawn of a text, how wide it is, and how it is cut and broken to fit."""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from typing import Any

_UNSEEN = {
    "Cc",
    "Cf",
    "Cs",
    "Zl",
    "Zp",
    "Cn",
}  # control signs, signs that turn the direction of writing, halves of signs
_JOINER = "\u200d"  # holds together emoji of several signs
_MEASURED_AT = 100.0


def clean(text: object) -> str:
    """The text on one line, without signs that a page or a picture cannot hold or that change what stands beside them."""
    kept = "".join(" " if unicodedata.category(sign) in _UNSEEN and sign != _JOINER else sign for sign in str(text))
    return " ".join(kept.split())


@cache
def _font(bold: bool) -> Any:
    from matplotlib.font_manager import FontProperties, findfont
    from matplotlib.ft2font import FT2Font

    # a font of its own: the shared ones get the size of what was drawn last
    font = FT2Font(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")))
    font.set_size(_MEASURED_AT, 72)
    return font


@lru_cache(maxsize=4096)
def _advance(sign: str, bold: bool) -> float | None:
    """Width of one sign in shares of the size; None where the font does not have it."""
    font = _font(bold)
    if not font.get_char_index(ord(sign)):
        return None
    return float(font.load_char(ord(sign)).linearHoriAdvance / 65536 / _MEASURED_AT)


def drawable(text: str) -> str:
    """The text with each sign that the pictures' font does not have as a question mark, in either of its weights."""
    return "".join(sign if None not in (_advance(sign, False), _advance(sign, True)) else "?" for sign in text)


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Width of a line in the unit of ``size``; a sign that the font lacks counts as a square."""
    advances = (_advance(sign, bold) for sign in text)
    return size * sum(1.0 if advance is None else advance for advance in advances)


def fit(text: str, room: float, size: float, *, bold: bool = False) -> str:
    """As much of the text as has room, ended by … where it is cut."""
    text = clean(text)[:600]
    if width(text, size, bold=bold) <= room:
        return text
    left = room - width("…", size, bold=bold)
    for end, sign in enumerate(text):
        left -= width(sign, size, bold=bold)
        if left < 0:
            return text[:end].rstrip() + "…"
    return text


def wrap(text: str, room: float, size: float, *, lines: int) -> list[str]:
    """The text on at most so many lines, broken at blanks; the last is cut where there is more."""
    words, broken = clean(text)[:2000].split(" "), [""]
    for index, word in enumerate(words):
        longer = f"{broken[-1]} {word}".strip()
        if width(longer, size) <= room or not broken[-1]:
            broken[-1] = longer
        elif len(broken) == lines:
            broken[-1] = " ".join([broken[-1], *words[index:]])
            break
        else:
            broken.append(word)
    return [fit(line, room, size) for line in broken if line]
