"""Random requests to torch's allocator: what the real one and the model of it make of them, compared to the last byte."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from allocator_build import BASE, DEVICE_BYTES, Order, RealAllocator, Served

from autotune.memory.allocator_rules import LARGE_BUFFER, MIB, ROUND_LARGE, AllocatorRules
from autotune.memory.blocks import Block
from autotune.memory.caching_allocator import CachingAllocator, DoesNotFit, SegmentChange
from autotune.memory.history import history_from_trace, joined

Profile = Literal["small", "mixed", "large", "same"]
PROFILES: tuple[Profile, ...] = ("small", "mixed", "large", "same")

_SAME = (300_000, 2_000_000, MIB, MIB + 1, 10 * MIB - 1, 10 * MIB, 25_000_000)
_MULTIPLES = (4 * MIB, 9 * MIB, 12 * MIB, 20 * MIB, 32 * MIB, 64 * MIB)


@dataclass(frozen=True, kw_only=True)
class Requests:
    """requests: as the driver takes them. settings: what the allocator is told. fraction: of the device that it may hold; None: all."""

    requests: tuple[str, ...]
    settings: str = ""
    fraction: float | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """The requests, and the limit before them."""
        if self.fraction is None:
            return self.requests
        return (f"limit {self.fraction!r}", *self.requests)


@dataclass(kw_only=True)
class Outcome:
    """addresses: of each request in order, from the first on; None where memory was out. changes: segments fetched and given
    back; peak: of what was held."""

    addresses: list[int | None] = field(default_factory=list)
    changes: Sequence[SegmentChange] = ()
    peak: int = 0

    @property
    def refused(self) -> list[bool]:
        return [address is None for address in self.addresses]


def draw(draws: random.Random, settings: str = "") -> Requests:
    """Up to 400 requests of one profile, half of them under a limit that they may reach."""
    profile = draws.choice(PROFILES)
    keep = draws.choice((3, 10, 40, 100))
    live: list[int] = []
    requests: list[str] = []
    made = 0
    for _ in range(draws.randint(10, 400)):
        dice = draws.random()
        if dice < 0.01:
            requests.append("empty")
        elif live and (dice < 0.45 or len(live) > keep):
            requests.append(f"free {live.pop(draws.randrange(len(live)) if draws.random() < 0.5 else -1)}")
        else:
            requests.append(f"alloc {made} {_size(draws, profile)}")
            live.append(made)
            made += 1
    limit = draws.choice((None, draws.randint(50, 1500) * 10**6, draws.randint(25, 700) * ROUND_LARGE))
    fraction = None if limit is None else limit / DEVICE_BYTES
    return Requests(requests=tuple(requests), settings=settings, fraction=fraction)


def draw_settings(draws: random.Random) -> str:
    """Settings that the model follows, in any order."""
    segment = draws.choice((None, None, 11, 16, 20, 33, 64))
    least = max(segment or 20, 20)
    told = [f"expandable_segments:{draws.random() < 0.4}"]
    if segment is not None:
        told.append(f"large_segment_size_mb:{segment}")
    if draws.random() < 0.6:
        # a size under that of large segments is a contradiction that the allocator ends of
        told.append(f"max_split_size_mb:{least + draws.choice((0, 1, 5, 30, 200))}")
        if draws.random() < 0.5:
            told.append(f"max_non_split_rounding_mb:{least + draws.choice((0, 1, 40, 500))}")
    if draws.random() < 0.6:
        powers = ["0", "1", "2", "4", "8", "16", "64"]
        parts = [f"{2**place}:{draws.choice(powers)}" for place in sorted(draws.sample(range(12), draws.randint(1, 4)))]
        behind = [f">:{draws.choice(powers)}"] if draws.random() < 0.6 else []
        told.append(
            f"roundup_power2_divisions:[{','.join(parts + behind)}]"
            if draws.random() < 0.6
            else f"roundup_power2_divisions:{draws.choice(powers[1:])}"
        )
    return ",".join(told)


def modelled(sequence: Requests, rules: AllocatorRules, limit_bytes: int | None) -> Outcome:
    """What the model makes of it under these rules. limit_bytes: what the fraction allows."""
    allocator = CachingAllocator(rules, limit_bytes=limit_bytes)
    blocks: dict[int, Block] = {}
    outcome = Outcome(changes=allocator.changes)
    for request in sequence.requests:
        word, *numbers = request.split()
        if word == "empty":
            allocator.empty_cache()
        elif word == "free":
            gone = blocks.pop(int(numbers[0]), None)
            if gone is not None:
                allocator.free(gone)
        else:
            try:
                block = allocator.malloc(int(numbers[1]))
            except DoesNotFit:
                outcome.addresses.append(None)
                continue
            assert block is not None  # nothing asks for nothing
            blocks[int(numbers[0])] = block
            outcome.addresses.append(block.address)
    outcome.peak = allocator.peak_reserved_bytes
    return outcome


def recorded(served: Served) -> Outcome:
    """The same of the real allocator."""
    asked = [entry for entry in served.trace if entry["action"] in ("alloc", "oom")]
    return Outcome(
        addresses=[entry["addr"] - BASE if entry["action"] == "alloc" else None for entry in asked],
        changes=history_from_trace(served.trace).changes,
        peak=served.peak_reserved,
    )


def differences(rules: AllocatorRules, real: Outcome, model: Outcome, order: Order) -> list[str]:
    """In what the two differ: refusals, segments, peak, addresses where those of segments are known to be the same."""
    expandable = rules.expandable_segments
    found = []
    if real.refused != model.refused:
        found.append("refusals")
    if (joined(real.changes) != joined(model.changes)) if expandable else (list(real.changes) != list(model.changes)):
        found.append("segments")
    if real.peak != model.peak:
        found.append("peak")
    known = not expandable and order == "rising" and rules.large_segment_bytes == LARGE_BUFFER
    if known and real.addresses != model.addresses:
        found.append("addresses")
    return found


def compared(
    allocator: RealAllocator, sequence: Requests, order: Order = "rising"
) -> tuple[list[str], Outcome, Outcome]:
    """The differences, what the real allocator did, what the model did."""
    real = recorded(allocator.serve(sequence.lines, settings=sequence.settings, order=order))
    rules = allocator.rules(sequence.settings)
    limit = None if sequence.fraction is None else allocator.limit_bytes(sequence.fraction)
    model = modelled(sequence, rules, limit)
    return differences(rules, real, model, order), real, model


def _size(draws: random.Random, profile: Profile) -> int:
    if profile == "small" or (profile == "mixed" and draws.random() < 0.4):
        return draws.choice((draws.randint(1, 4096), draws.randint(1, MIB), 512 * draws.randint(1, 2048)))
    if profile == "same":
        return draws.choice(_SAME)
    return draws.choice((draws.randint(MIB, 12 * MIB), draws.randint(MIB, 10**8), draws.choice(_MULTIPLES)))
