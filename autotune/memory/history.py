"""What torch's allocator really did, as torch records it, against what the model of it does with the same requests.

torch writes the history of its caching allocator where ``torch.cuda.memory._record_memory_history(context=None)`` asks for
it; ``torch.cuda.memory._snapshot()["device_traces"][device]`` is a list of dictionaries, each with an ``action`` (``alloc``,
``free_requested``, ``free_completed``, ``segment_alloc``, ``segment_free``, ``segment_map``, ``segment_unmap``, ``oom``, ...), an ``addr``, a
``size`` and a ``stream``. The requests among them are replayed; the segments are what to compare with.

The histories that are kept as test data were recorded by torch's own compiled allocator over a stand-in for the device
(``benchmarks/real_allocator.py``); of a GPU there is none yet. What empties the cache (``torch.cuda.empty_cache``) is in no history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.caching_allocator import SegmentChange
from autotune.memory.events import Event
from autotune.memory.replay import replay

_FETCHED = {"segment_alloc", "segment_map"}
_GIVEN_BACK = {"segment_free", "segment_unmap"}
_NEEDED = ("action", "addr", "size")


class HistoryError(ValueError):
    """A recorded history that cannot be replayed."""


@dataclass(frozen=True, kw_only=True)
class History:
    """events: the requests, with ids counted in their order. changes: segments fetched and given back, in order. refused: ids of
    the requests for which memory was out."""

    events: tuple[Event, ...]
    changes: tuple[SegmentChange, ...]
    refused: tuple[int, ...] = ()

    @property
    def peak_reserved(self) -> int:
        """The most that was held of the device, in bytes."""
        return _peak(self.changes)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """recorded and modelled: segments fetched and given back, in order; their peaks in bytes. same_refusals: whether memory was out
    for the same requests."""

    expandable_segments: bool
    recorded: tuple[SegmentChange, ...]
    modelled: tuple[SegmentChange, ...]
    recorded_peak: int
    modelled_peak: int
    same_refusals: bool

    @property
    def same_segments(self) -> bool:
        """Whether the model fetched and gave back the same segments, of the same sizes and in the same order; with expandable
        segments the same bytes, since pages may be mapped at once or one by one."""
        if self.expandable_segments:
            return joined(self.recorded) == joined(self.modelled)
        return self.recorded == self.modelled

    @property
    def error(self) -> float:
        """How far the modelled peak stands above (below 0: under) the recorded one, as a share of it."""
        return (self.modelled_peak - self.recorded_peak) / self.recorded_peak if self.recorded_peak else 0.0


def history_from_trace(trace: Iterable[Mapping[str, Any]]) -> History:
    """The history in one device's list of a snapshot. Recording must have begun before the first allocation.

    Raises:
        HistoryError: an entry lacks a field, the history runs over several streams, it frees what it never allocated (recording
            began too late, or its oldest entries were dropped), or an address is given out twice.
    """
    events: list[Event] = []
    changes: list[SegmentChange] = []
    live: dict[int, Event] = {}
    refused: list[int] = []
    streams: set[Any] = set()
    for place, entry in enumerate(trace):
        missing = [key for key in _NEEDED if key not in entry]
        if missing:
            raise HistoryError(f"Entry {place} of the history has no {', '.join(missing)}; it has {sorted(entry)}.")
        action, address, size = str(entry["action"]), int(entry["addr"]), int(entry["size"])
        if action == "alloc":
            streams.add(entry.get("stream", 0))
            if address in live:
                raise HistoryError(f"Entry {place} allocates at {address:#x}, where an allocation is live already.")
            live[address] = Event("alloc", len(events), size, "recorded")
            events.append(live[address])
        elif action == "free_completed":  # from here on the block can be given out again
            begun = live.pop(address, None)
            if begun is None:
                raise HistoryError(
                    f"Entry {place} frees {address:#x}, which this history never allocated: begin to record before the "
                    "first allocation, with max_entries large enough that none is dropped."
                )
            events.append(Event("free", begun.id, begun.nbytes, "recorded"))
        elif action == "oom":  # its size is the request's, rounded; its address is what the device had left
            refused.append(len(events))
            events.append(Event("alloc", len(events), size, "recorded"))
        elif action in _FETCHED:
            changes.append(SegmentChange("alloc", size))
        elif action in _GIVEN_BACK:
            changes.append(SegmentChange("free", size))
    if len(streams) > 1:
        raise HistoryError(
            f"The history runs over {len(streams)} streams; the model knows one. Record without side streams."
        )
    return History(events=tuple(events), changes=tuple(changes), refused=tuple(refused))


def compare(history: History, rules: AllocatorRules | None = None, *, limit_bytes: int | None = None) -> Comparison:
    """Replays a history's requests through the model of the allocator. rules, limit_bytes: what the allocator was told.

    Raises:
        DoesNotFit: a request that was served finds no room in the model under the limit.
    """
    modelled = replay(history.events, rules, limit_bytes=limit_bytes, pass_refused=bool(history.refused))
    return Comparison(
        expandable_segments=rules is not None and rules.expandable_segments,
        recorded=history.changes,
        modelled=modelled.changes,
        recorded_peak=history.peak_reserved,
        modelled_peak=modelled.peak_reserved,
        same_refusals=history.refused == modelled.refused,
    )


def _peak(changes: Sequence[SegmentChange]) -> int:
    held = peak = 0
    for change in changes:
        held += change.nbytes if change.kind == "alloc" else -change.nbytes
        peak = max(peak, held)
    return peak


def joined(changes: Sequence[SegmentChange]) -> list[SegmentChange]:
    """With neighbours of one kind as one: pages may be mapped at once or one by one."""
    found: list[SegmentChange] = []
    for change in changes:
        if found and found[-1].kind == change.kind:
            found[-1] = SegmentChange(change.kind, found[-1].nbytes + change.nbytes)
        else:
            found.append(change)
    return found
