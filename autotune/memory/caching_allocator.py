"""A model of torch's CUDA caching allocator: from a sequence of allocations and frees to what it reserves of the device.

It follows ``c10/cuda/CUDACachingAllocator.cpp`` of torch 2.11 to 2.13 for one device and one stream, under the settings that
:class:`autotune.memory.allocator_rules.AllocatorRules` knows. By default:

- a request is rounded up to 512 bytes; up to 1 MiB it is served from the small pool, above from the large one;
- the smallest free block that fits is taken, at equal sizes the one at the lowest address. It is split where the rest
  is at least 512 bytes (small pool, expandable segments) or more than 1 MiB (large pool);
- where none fits, a segment is fetched: 2 MiB for small requests, 20 MiB below 10 MiB, else the request rounded up to 2 MiB;
  with expandable segments, pages of 2 MiB or 20 MiB are mapped behind what is there;
- a freed block joins its free neighbours and stays cached;
- a segment that would exceed the limit is not fetched: everything cached that is whole (or, with expandable segments,
  every whole page) is given back, then it is tried once more, then memory is out.

``benchmarks/real_allocator.py`` compares it with torch's own, compiled code over a stand-in for the device. Not modelled: several
streams, CUDA graphs, garbage collection. The addresses that cudaMalloc hands out are not known; here they rise, which matters
between blocks of one size, up to torch 2.11 alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from autotune.memory.allocator_rules import LARGE_BUFFER, SMALL_BUFFER, SMALL_SIZE, AllocatorRules
from autotune.memory.blocks import Block, Pool
from autotune.memory.events import Event
from autotune.units import format_bytes

# of an expandable segment, or more: more than any device has
_ADDRESS_SPACE = LARGE_BUFFER * 2**26


class DoesNotFit(Exception):
    """An allocation that finds no room under the limit, even with nothing cached.

    requested_bytes: what was asked for. segment_bytes: what would have had to be fetched for it. allocated_bytes and
    reserved_bytes: held at that moment. event: what could not be served, where a sequence was replayed.
    """

    def __init__(self, requested: int, segment: int, allocated: int, reserved: int, limit: int) -> None:
        self.requested_bytes, self.segment_bytes = requested, segment
        self.allocated_bytes, self.reserved_bytes = allocated, reserved
        self.event: Event | None = None
        super().__init__(
            f"An allocation of {format_bytes(requested)} does not fit: it needs {format_bytes(segment)} of the device, "
            f"{format_bytes(reserved)} are reserved ({format_bytes(allocated)} in use), {format_bytes(limit)} are allowed."
        )


@dataclass(frozen=True, slots=True)
class SegmentChange:
    """What was fetched of the device or given back, in bytes."""

    kind: Literal["alloc", "free"]
    nbytes: int


class CachingAllocator:
    """The allocator's state. ``limit_bytes`` is what ``set_per_process_memory_fraction`` allows; None allows all.

    reserved_bytes: held of the device now; allocated_bytes: of blocks in use; both with their peaks. num_retries: how
    often cached memory was given back to serve a request. changes: every segment fetched or given back.

    With expandable segments torch compares the rounded request with the limit and then maps whole pages, of 20 MiB as a rule,
    so what is reserved may exceed the limit by less than one page.
    """

    def __init__(self, rules: AllocatorRules | None = None, *, limit_bytes: int | None = None) -> None:
        self.rules, self.limit_bytes = rules or AllocatorRules(), limit_bytes
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self.allocated_bytes = self.peak_allocated_bytes = 0
        self.num_retries = 0
        self.changes: list[SegmentChange] = []
        self._pools = (
            Pool(small=True, page=SMALL_BUFFER, oldest_first=self.rules.oldest_first),
            Pool(small=False, page=self.rules.large_segment_bytes, oldest_first=self.rules.oldest_first),
        )
        self._next_address = 0
        self._heads: dict[int, Block] = {}  # the first block of each segment, by address

    def malloc(self, nbytes: int) -> Block | None:
        """A block for a request of this many bytes; None for a request of nothing.

        Raises:
            ValueError: fewer than 0 bytes.
            DoesNotFit: there is no room under the limit.
        """
        if nbytes < 0:
            raise ValueError(f"An allocation has at least 0 bytes, {nbytes} were asked for.")
        if nbytes == 0:
            return None
        size = self.rules.round_size(nbytes)
        pool = self._pools[0] if size <= SMALL_SIZE else self._pools[1]
        block = self._cached(pool, size) or self._fetch(pool, size)
        if block is None and self._release_oversize(pool, size):
            block = self._fetch(pool, size)
        if block is None:
            self.num_retries += 1
            self.empty_cache()
            block = self._fetch(pool, size)
        if block is None:
            assert self.limit_bytes is not None  # nothing else refuses
            fetched = self.rules.segment_size(size)
            raise DoesNotFit(nbytes, fetched, self.allocated_bytes, self.reserved_bytes, self.limit_bytes)
        self._cut(block, size)
        block.used, block.requested = True, nbytes
        self.allocated_bytes += block.size
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return block

    def free(self, block: Block) -> None:
        """Give a block back; it stays cached.

        Raises:
            ValueError: the block is not in use.
        """
        if not block.used:
            raise ValueError(f"The block at {block.address} is not in use; a block is freed once.")
        block.used, block.requested = False, 0
        self.allocated_bytes -= block.size
        self._join(block)
        block.pool.add_free(block)

    def empty_cache(self) -> None:
        """Give back to the device what is cached and whole: segments, or pages of expandable segments."""
        for pool in (self._pools[1], self._pools[0]):
            for _, _, block in list(pool.free):
                if self.rules.expandable_segments:
                    self._unmap(block)
                elif block.whole:
                    self._release(block)

    def segments(self) -> Iterator[list[Block]]:
        """The blocks of each segment in the order of their addresses, unmapped ones too."""
        for head in self._heads.values():
            blocks = []
            block: Block | None = head
            while block is not None:
                blocks.append(block)
                block = block.next
            yield blocks

    def _cached(self, pool: Pool, size: int) -> Block | None:
        place = pool.at_least(size)
        if place == len(pool.free):
            return None
        if self.rules.expandable_segments:
            # a block at the end of what is mapped counts as all that it could grow to
            while place + 1 < len(pool.free) and pool.free[place + 1][2].room < pool.free[place][2].room:
                place += 1
        if not self.rules.serves(pool.free[place][0], size):
            return None
        return pool.free.pop(place)[2]

    def _fetch(self, pool: Pool, size: int) -> Block | None:
        fetched = self.rules.segment_size(size)
        if self.limit_bytes is not None and self.reserved_bytes + fetched > self.limit_bytes:
            return None
        if self.rules.expandable_segments:
            return self._grow(pool, size)
        block = Block(pool, self._next_address, fetched)
        self._next_address += fetched
        self._heads[block.address] = block
        self._reserve(fetched)
        return block

    def _release_oversize(self, pool: Pool, size: int) -> bool:
        """Give back free blocks that are never cut: the smallest that is as large as the request, else the largest until they are
        as much together. Whether they were enough."""
        least = self.rules.max_split_bytes
        if least is None or self.rules.expandable_segments:
            return False
        wanted = max(size, least)
        place = pool.at_least(wanted)
        if place < len(pool.free):
            self._release(pool.free[place][2])
            return True
        released = 0
        while released < wanted and pool.free and pool.free[-1][0] >= least:
            released += pool.free[-1][0]
            self._release(pool.free[-1][2])
        return released >= wanted

    def _release(self, block: Block) -> None:
        block.pool.drop_free(block)
        del self._heads[block.address]
        self._reserve(-block.size)

    def _cut(self, block: Block, size: int) -> None:
        if not self.rules.cuts(block.size, size, small=block.pool.small):
            return
        remainder = Block(block.pool, block.address + size, block.size - size)
        remainder.birth, block.birth = block.birth, remainder.birth  # to torch what is left is the block that was there
        block.size = size
        remainder.put_behind(block, block.next)
        block.pool.add_free(remainder)

    def _join(self, block: Block) -> None:
        """Take in neighbours that are free, or unmapped, as this block is."""
        for neighbour in (block.previous, block.next):
            if neighbour is None or neighbour.used or neighbour.mapped != block.mapped:
                continue
            (block.pool.drop_free if neighbour.mapped else block.pool.drop_unmapped)(neighbour)
            if neighbour is block.previous:
                if self._heads.get(neighbour.address) is neighbour:
                    self._heads[neighbour.address] = block
                block.address = neighbour.address
                block.put_behind(neighbour.previous, block.next)
            else:
                block.put_behind(block.previous, neighbour.next)
            block.size += neighbour.size

    def _grow(self, pool: Pool, size: int) -> Block:
        """Map pages at the lowest address where free and unmapped space together suffice."""
        block = next((found for _, start in pool.unmapped if (found := _start(start, size)) is not None), None)
        if block is None:
            space = -(-max(size, _ADDRESS_SPACE) // pool.page) * pool.page
            begin = -(-self._next_address // pool.page) * pool.page
            block = Block(pool, begin, space, mapped=False)
            self._next_address = begin + space
            self._heads[block.address] = block
            pool.add_unmapped(block)
        if not block.mapped:
            self._map(block, min(block.size, size))
        while block.size < size:
            behind = block.next
            assert behind is not None  # _start made sure of the room
            self._map(behind, min(size - block.size, behind.size))
            block = behind  # it has taken in the block before it
        pool.drop_free(block)
        return block

    def _map(self, block: Block, nbytes: int) -> None:
        pool = block.pool
        mapped = -(-nbytes // pool.page) * pool.page
        pool.drop_unmapped(block)
        block.mapped = True
        if mapped < block.size:
            rest = Block(pool, block.address + mapped, block.size - mapped, mapped=False)
            rest.put_behind(block, block.next)
            block.size = mapped
            pool.add_unmapped(rest)
        self._reserve(mapped)
        self._join(block)
        pool.add_free(block)

    def _unmap(self, block: Block) -> None:
        """Give back the whole pages of a free block; what stands before and behind them stays."""
        pool = block.pool
        begin = -(-block.address // pool.page) * pool.page
        end = (block.address + block.size) // pool.page * pool.page
        if begin >= end:
            return
        pool.drop_free(block)
        if begin > block.address:
            before = Block(pool, block.address, begin - block.address)
            before.put_behind(block.previous, block)
            if self._heads.get(block.address) is block:
                self._heads[block.address] = before
            pool.add_free(before)
        if block.address + block.size > end:
            after = Block(pool, end, block.address + block.size - end)
            after.put_behind(block, block.next)
            pool.add_free(after)
        block.address, block.size, block.mapped = begin, end - begin, False
        self._reserve(begin - end)
        self._join(block)
        if block.whole:
            del self._heads[block.address]
        else:
            pool.add_unmapped(block)

    def _reserve(self, change: int) -> None:
        self.reserved_bytes += change
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        self.changes.append(SegmentChange("alloc" if change > 0 else "free", abs(change)))


def _start(unmapped: Block, size: int) -> Block | None:
    """Where a request of this size could begin that ends in or behind this unmapped space; None if nowhere."""
    before = unmapped.previous
    start = before if before is not None and not before.used else unmapped
    room = 0
    block: Block | None = start
    while block is not None and not block.used and room < size:
        room += block.size
        block = block.next
    return start if room >= size else None
