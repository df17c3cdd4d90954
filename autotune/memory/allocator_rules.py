"""What torch's CUDA caching allocator is told, in the form that the model of it takes: sizes of blocks and segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIB = 2**20
MIN_BLOCK = 512
SMALL_SIZE = MIB  # the largest request that the small pool serves
SMALL_BUFFER = 2 * MIB
LARGE_BUFFER = 20 * MIB
MIN_LARGE_ALLOC = 10 * MIB
ROUND_LARGE = 2 * MIB

ROUNDED_INTERVALS = 16
"""Requests from 1 MiB to 64 GiB, by powers of 2: each may be rounded in its own way."""


@dataclass(frozen=True, kw_only=True)
class AllocatorRules:
    """expandable_segments: whether segments grow in pages. large_segment_bytes: of segments for requests from 1 to 10 MiB, and of the
    large pool's pages. max_split_bytes: blocks of this size or more are never cut and serve no smaller request; None: there is
    no such size. max_unsplit_rounding_bytes: by less than this such a block may be larger than what it serves; None: by
    large_segment_bytes. divisions: into how many steps the way from one power of 2 to the next is cut, to which requests are
    rounded up; for each of the 16 intervals from 1 MiB on, 0 and 1 are none; empty: none anywhere. oldest_first: of free blocks of
    one size the one that was made first is taken, as torch 2.12 does; else the one at the lowest address of the oldest segment
    (2.13), or at the lowest address (2.11: the same where the addresses of segments rise)."""

    expandable_segments: bool = False
    large_segment_bytes: int = LARGE_BUFFER
    max_split_bytes: int | None = None
    max_unsplit_rounding_bytes: int | None = None
    divisions: tuple[int, ...] = ()
    oldest_first: bool = False

    def __post_init__(self) -> None:
        if self.divisions and len(self.divisions) != ROUNDED_INTERVALS:
            raise ValueError(f"There are {ROUNDED_INTERVALS} intervals, {len(self.divisions)} divisions were given.")

    @property
    def key(self) -> str:
        """A name for them; "" for torch's defaults."""
        return "" if self == AllocatorRules() else repr(self)

    def round_size(self, nbytes: int) -> int:
        """What a request takes of a block: a multiple of 512 bytes, at least one."""
        if self.divisions:
            divisions = _of_interval(self.divisions, nbytes)
            if divisions > 1 and nbytes > MIN_BLOCK * divisions:
                step = (1 << (nbytes.bit_length() - 1)) // divisions
                return -(-nbytes // step) * step
        return max(MIN_BLOCK, -(-nbytes // MIN_BLOCK) * MIN_BLOCK)

    def segment_size(self, rounded: int) -> int:
        """What is fetched of the device for a (rounded) request that finds no free block."""
        if rounded <= SMALL_SIZE:
            return SMALL_BUFFER
        if rounded < MIN_LARGE_ALLOC:
            return self.large_segment_bytes
        return -(-rounded // ROUND_LARGE) * ROUND_LARGE

    def serves(self, free: int, rounded: int) -> bool:
        """Whether a free block of this size may be taken for a request of no more."""
        if self.max_split_bytes is None:
            return True
        if rounded < self.max_split_bytes:
            return free < self.max_split_bytes
        beyond = (
            self.large_segment_bytes if self.max_unsplit_rounding_bytes is None else self.max_unsplit_rounding_bytes
        )
        return free < rounded + beyond

    def cuts(self, free: int, rounded: int, *, small: bool) -> bool:
        """Whether what such a request leaves of a block becomes a free block of its own. small: in the small pool."""
        rest = free - rounded
        if small or self.expandable_segments:
            return rest >= MIN_BLOCK
        return rest > SMALL_SIZE and (self.max_split_bytes is None or rounded < self.max_split_bytes)


def _of_interval(divisions: Sequence[int], nbytes: int) -> int:
    interval = nbytes.bit_length() - MIB.bit_length()
    return divisions[min(max(0, interval), ROUNDED_INTERVALS - 1)]
