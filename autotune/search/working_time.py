"""When trials ended in the time in which a study worked: the hours between a run and its resume do not count."""

from __future__ import annotations

from collections.abc import Mapping, Set
from datetime import datetime

IDLE_SECONDS = 600.0
"""A gap that is shorter belongs to the work, such as planning or a machine that was busy."""

Span = tuple[datetime, datetime]


def seconds_until_ends(spans: Mapping[int, Span], *, interrupted: Set[int] = frozenset()) -> dict[int, float]:
    """Seconds of work from the start of the first trial to the end of each, by its number.

    spans: start and end of each trial that has ended. interrupted: trials whose end says when that was noticed, which may be
    hours after their process was gone; so they do not fill a gap.
    """
    if not spans:
        return {}
    begin = min(start for start, _ in spans.values())
    idle: list[Span] = []
    busy_until: datetime | None = None
    for start, end in sorted(span for number, span in spans.items() if number not in interrupted):
        if busy_until is not None and (start - busy_until).total_seconds() > IDLE_SECONDS:
            idle.append((busy_until, start))
        busy_until = end if busy_until is None else max(busy_until, end)
    return {
        number: (end - begin).total_seconds() - sum(_before(end, gap) for gap in idle)
        for number, (_, end) in spans.items()
    }


def _before(moment: datetime, gap: Span) -> float:
    """Seconds of the gap that lie before the moment."""
    return max(0.0, (min(moment, gap[1]) - gap[0]).total_seconds())
