"""Bytes and durations as people write them: ``8GB`` is 8e9 bytes, ``8GiB`` is 8 * 2**30."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from autotune.errors import UnitError

_BYTE_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_DURATION_UNITS: dict[str, float] = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_LATENCY_UNITS: dict[str, float] = {"": 1.0, "s": 1.0, "ms": 1e-3}
_LEAST_WITHOUT_UNIT = 10**5
"""A text with a smaller plain number is a size whose unit was forgotten: nothing that is bounded here fits in so few bytes."""
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """Bytes from ``8GB`` (8e9), ``8GiB`` (8 * 2**30), ``512MiB`` or a plain number of bytes, as a text from 100,000 on.

    Raises:
        UnitError: the text is no size, its unit is unknown or was forgotten (``8``), or it is not above zero.
    """
    allowed = "allowed are a number of bytes or a number with B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)"
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match.group(2).lower() not in _BYTE_UNITS:
        meant = _gigabytes(str(text))
        raise UnitError(f"{text!r} is not a memory size: {allowed}. {meant or 'For example 8GB or 7.5GiB.'}")
    size = float(match.group(1)) * _BYTE_UNITS[match.group(2).lower()]
    if not 0.5 < size < math.inf:
        raise UnitError(f"A memory size must be above zero and finite, {text!r} was given: {allowed}.")
    if isinstance(text, str) and not match.group(2) and size < _LEAST_WITHOUT_UNIT:
        raise UnitError(f"{text!r} has no unit and would be {format_bytes(round(size))}: {allowed}. {_gigabytes(text)}")
    return round(size)


def _gigabytes(text: str) -> str:
    """What ``8``, ``8G`` or ``8Gi`` was meant for, as advice; "" for anything else."""
    bare = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:g|gi)?\s*", text, re.IGNORECASE)
    return f"Probably {bare.group(1)}GB or {bare.group(1)}GiB is meant." if bare else ""


def count_words(number: int, noun: str) -> str:
    """``1 member``, ``2 members``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_bytes(count: int) -> str:
    """Both readings of a size, in the words that messages use: ``8.00 GB (7.45 GiB)``."""
    for power, decimal, binary in ((3, "GB", "GiB"), (2, "MB", "MiB"), (1, "kB", "KiB")):
        if abs(count) >= 1000**power:
            return f"{count / 1000**power:.2f} {decimal} ({count / 1024**power:.2f} {binary})"
    return f"{count} B"


def parse_duration(text: str | float) -> float:
    """Seconds from ``90``, ``90s``, ``20m``, ``1.5h`` or ``2d``.

    Raises:
        UnitError: the text is no duration, its unit is unknown, or it is not above zero.
    """
    return _seconds(text, _DURATION_UNITS, "duration", "s, m, h or d", "20m or 1.5h")


def parse_latency(text: str | float) -> float:
    """Seconds from ``20ms``, ``0.5s`` or a plain number of seconds.

    Raises:
        UnitError: the text is no latency, its unit is unknown, or it is not above zero.
    """
    return _seconds(text, _LATENCY_UNITS, "latency", "ms or s", "20ms or 0.5s")


def _seconds(text: str | float, units: Mapping[str, float], what: str, known: str, example: str) -> float:
    allowed = f"allowed are a number of seconds or a number with {known}"
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match.group(2).lower() not in units:
        raise UnitError(f"{text!r} is not a {what}: {allowed}. For example {example}.")
    seconds = float(match.group(1)) * units[match.group(2).lower()]
    if not 0 < seconds < math.inf:
        raise UnitError(f"A {what} must be above zero and finite, {text!r} was given: {allowed}.")
    return seconds


def format_latency(seconds: float) -> str:
    """A latency as people read it: ``0.42 ms``, ``12.3 ms``, ``1.25 s``."""
    milliseconds = seconds * 1e3
    if milliseconds >= 1000:
        return f"{seconds:.2f} s"
    return f"{milliseconds:.1f} ms" if milliseconds >= 10 else f"{milliseconds:.2f} ms"


def format_duration(seconds: float) -> str:
    """A duration as people read it: ``41 s``, ``3 min 20 s``, ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
