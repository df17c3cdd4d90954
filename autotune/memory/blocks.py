"""Pieces of an allocator's segments, and the pools that keep those which are free."""

from __future__ import annotations

import bisect


class Block:
    """A piece of a segment: in use, free (cached), or address space that nothing is mapped to."""

    __slots__ = ("address", "birth", "mapped", "next", "pool", "previous", "requested", "size", "used")

    def __init__(self, pool: Pool, address: int, size: int, *, mapped: bool = True) -> None:
        self.pool, self.address, self.size, self.mapped = pool, address, size, mapped
        self.birth = pool.count_birth()
        self.used = False
        self.requested = 0
        self.previous: Block | None = None
        self.next: Block | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all of its segment."""
        return self.previous is None and self.next is None

    @property
    def room(self) -> int:
        """What a free block of an expandable segment could grow to."""
        behind = self.next
        return self.size + (behind.size if behind is not None and not behind.mapped else 0)

    def put_behind(self, before: Block | None, after: Block | None) -> None:
        """Take a place between two neighbours."""
        self.previous, self.next = before, after
        if before is not None:
            before.next = self
        if after is not None:
            after.previous = self


class Pool:
    """Free blocks by size and address, and unmapped address space by address. page: what its expandable segments grow by.
    oldest_first: free blocks of one size stand in the order in which they were made instead of that of their addresses."""

    def __init__(self, *, small: bool, page: int, oldest_first: bool = False) -> None:
        self.small, self.page, self.oldest_first = small, page, oldest_first
        self.free: list[tuple[int, int, Block]] = []
        self.unmapped: list[tuple[int, Block]] = []
        self._births = 0

    def count_birth(self) -> int:
        """The next number of a block."""
        self._births += 1
        return self._births

    def add_free(self, block: Block) -> None:
        bisect.insort(self.free, (block.size, block.birth if self.oldest_first else block.address, block))

    def drop_free(self, block: Block) -> None:
        place = block.birth if self.oldest_first else block.address
        del self.free[bisect.bisect_left(self.free, (block.size, place))]

    def add_unmapped(self, block: Block) -> None:
        bisect.insort(self.unmapped, (block.address, block))

    def drop_unmapped(self, block: Block) -> None:
        del self.unmapped[bisect.bisect_left(self.unmapped, (block.address,))]

    def at_least(self, size: int) -> int:
        """The place of the smallest free block of this size or more; behind the last where there is none."""
        return bisect.bisect_left(self.free, (size, -1))
