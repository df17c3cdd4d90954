"""A sequence of allocations and frees, replayed through the model of torch's caching allocator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.blocks import Block
from autotune.memory.caching_allocator import CachingAllocator, DoesNotFit, SegmentChange
from autotune.memory.events import Event


@dataclass(frozen=True, kw_only=True)
class Replay:
    """peak_reserved and peak_allocated: bytes of segments, and of blocks in use (rounded). num_retries: how often
    cached memory had to be given back. changes: segments fetched and given back, in order. refused: ids of the requests that
    found no room, where those are passed over."""

    peak_reserved: int
    peak_allocated: int
    num_retries: int
    changes: tuple[SegmentChange, ...]
    refused: tuple[int, ...] = ()


def replay(
    events: Iterable[Event],
    rules: AllocatorRules | None = None,
    *,
    limit_bytes: int | None = None,
    pass_refused: bool = False,
) -> Replay:
    """What the allocator reserves to serve these events. rules: what it is told; None is torch's default. pass_refused: go on
    where a request finds no room, without it.

    Raises:
        DoesNotFit: one of them finds no room under the limit, and is not passed over; ``event`` says which.
        ValueError: something is allocated twice, or freed that was not allocated.
    """
    allocator = CachingAllocator(rules, limit_bytes=limit_bytes)
    blocks: dict[int, Block | None] = {}
    refused: list[int] = []
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
            if not pass_refused:
                error.event = event
                raise
            refused.append(event.id)
            blocks[event.id] = None  # so that its free is nothing
    return Replay(
        peak_reserved=allocator.peak_reserved_bytes,
        peak_allocated=allocator.peak_allocated_bytes,
        num_retries=allocator.num_retries,
        changes=tuple(allocator.changes),
        refused=tuple(refused),
    )
