"""What a workload takes at any batch size, from its traces at two: one run of events, each as large as its rows make it.

A step does nearly the same in the same order whatever the batch size, and nearly every storage is as large as some bytes
plus so many for each row. So two traces tell both, and the events of any other batch size are made up and gone through as
if they had been traced, rounding and segments of the caching allocator included, at a hundredth of a trace's time.

Nearly: a GPU's kernels may go another way beyond some number of rows (the gradient of an embedding table sorts beyond 3072
looked-up rows), and parts of ten rows leave a rest. What must be true is asked of a trace at that very size.
"""

from __future__ import annotations

from collections.abc import Sequence

from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.events import PARTS, Event
from autotune.memory.trace import TraceResult, served

LEAST_ROWS = 2  # a single row is a view in places where more rows are copied


class NotEvenError(Exception):
    """The two traces do not differ by rows alone; the message says where."""


class ByRows:
    """The events of a workload by its number of rows.

    even: whether every storage grows by whole bytes a row; where not, its size in between is rounded down.

    Args:
        few, many: of the same workload, with ``rows_few`` and ``rows_many`` rows (fewer and more).

    Raises:
        NotEvenError: they are not the same run, or a storage shrinks with the rows.
    """

    def __init__(self, few: Sequence[Event], many: Sequence[Event], rows_few: int, rows_many: int) -> None:
        if not LEAST_ROWS <= rows_few < rows_many:
            raise ValueError(
                f"Two numbers of rows in rising order are needed, at least {LEAST_ROWS}; {rows_few} and {rows_many} were given."
            )
        if len(few) != len(many):
            raise NotEvenError(f"{len(few)} events at {rows_few} rows, {len(many)} at {rows_many}")
        ids = {one.id: other.id for one, other in zip(few, many, strict=True)}
        self._rows, self._span = rows_few, rows_many - rows_few
        self._events: list[tuple[Event, int]] = []  # with the bytes by which it grows from the one trace to the other
        for place, (one, other) in enumerate(zip(few, many, strict=True)):
            if (one.kind, one.label) != (other.kind, other.label) or ids[one.id] != other.id:
                raise NotEvenError(f"event {place} is {one} at {rows_few} rows and {other} at {rows_many}")
            if other.nbytes < one.nbytes:
                raise NotEvenError(f"event {place} shrinks from {one.nbytes} to {other.nbytes} bytes")
            self._events.append((one, other.nbytes - one.nbytes))
        self.even = all(growth % self._span == 0 for _, growth in self._events)

    def events(self, rows: int) -> list[Event]:
        """The events at this number of rows.

        Raises:
            NotEvenError: a single row was asked for, or a storage would have less than no bytes there: its size is not
                this straight line near 0 rows.
        """
        if rows < LEAST_ROWS:
            raise NotEvenError(f"{rows} rows may go another way than more rows do")
        more = rows - self._rows
        made = [
            Event(event.kind, event.id, event.nbytes + growth * more // self._span, event.label)
            for event, growth in self._events
        ]
        if any(event.nbytes < 0 for event in made):
            raise NotEvenError(f"{rows} rows are too few for what two larger traces tell")
        return made

    def at(self, rows: int, *, for_gpu: bool, rules: AllocatorRules | None = None) -> TraceResult:
        """What a trace at this number of rows gives where nothing goes another way there; reserved bytes only for a GPU, by what
        its allocator is told.

        Raises:
            NotEvenError: see :meth:`events`.
        """
        events = self.events(rows)
        allocated, parts = _peak(events)
        if not for_gpu:
            return TraceResult(allocated=allocated, parts=parts)
        return served(events, allocated, parts, rules)


def _peak(events: Sequence[Event]) -> tuple[int, dict[str, int]]:
    """The highest sum of live bytes, and what it was made of."""
    live = peak = place = 0
    for index, event in enumerate(events):
        live += event.change
        if live >= peak:
            peak, place = live, index
    parts: dict[str, int] = dict.fromkeys(PARTS, 0)
    for event in events[: place + 1]:
        parts[event.label] = parts.get(event.label, 0) + event.change
    return peak, parts
