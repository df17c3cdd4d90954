"""A sequence of allocations and frees, replayed through the model of torch's caching allocator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.memory.caching_allocator import Block, CachingAllocator, DoesNotFit, SegmentChange
from autotune.memory.events import Event


@dataclass(frozen=True, kw_only=True)
class Replay:
    """peak_reserved and peak_allocated: bytes of segments, and of blocks in use (rounded). num_retries: how often
    cached memory had to be given back. changes: segments fetched and given back, in order."""

    peak_reserved: int
    peak_allocated: int
    num_retries: int
    changes: tuple[SegmentChange, ...]


def replay(events: Iterable[Event], *, expandable_segments: bool = False, limit_bytes: int | None = None) -> Replay:
    """What the allocator reserves to serve these events.

    Raises:
        DoesNotFit: one of them finds no room under the limit; ``event`` says which.
        ValueError: something is allocated twice, or freed that was not allocated.
    """
    allocator = CachingAllocator(expandable_segments=expandable_segments, limit_bytes=limit_bytes)
    blocks: dict[int, Block | None] = {}
    for event in events:
        if event.kind == "free":
            if event.id not in blocks:
                raise ValueError(f"Allocation {event.id} is freed, but it was never made or is gone already.")
            block = blocks.pop(event.id)
            if block is not None:
                allocator.free(block)
            continue
        if event.id in blocks:
            raise ValueError(f"Allocation {event.id} is made a second time; ids must be unique.")
        try:
            blocks[event.id] = allocator.malloc(event.nbytes)
        except DoesNotFit as error:
            error.event = event
            raise
    return Replay(
        peak_reserved=allocator.peak_reserved_bytes,
        peak_allocated=allocator.peak_allocated_bytes,
        num_retries=allocator.num_retries,
        changes=tuple(allocator.changes),
    )
