"""The model of torch's caching allocator: worked examples, and its invariants on random sequences."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.memory.allocator_rules import LARGE_BUFFER, MIB, MIN_BLOCK, SMALL_SIZE, AllocatorRules
from autotune.memory.blocks import Block
from autotune.memory.caching_allocator import CachingAllocator, DoesNotFit
from autotune.memory.events import Event
from autotune.memory.replay import replay

EXPANDABLE = AllocatorRules(expandable_segments=True)
BOTH = pytest.mark.parametrize("rules", [AllocatorRules(), EXPANDABLE], ids=["segments", "expandable"])

# around every bound of the allocator, and all the way between
SIZES = st.one_of(
    st.integers(1, 2 * MIB),
    st.integers(1, 60 * MIB),
    st.sampled_from(
        [1, 511, 512, 513, MIB - 1, MIB, MIB + 1, 2 * MIB, 10 * MIB - 512, 10 * MIB, 20 * MIB, 20 * MIB + 1]
    ),
)
# a request, or which of the live blocks to free
STEPS = st.lists(st.one_of(SIZES, st.integers(0, 1000).map(lambda place: -place - 1)), max_size=60)


def _apply(allocator: CachingAllocator, live: list[Block], step: int) -> None:
    if step > 0:
        block = allocator.malloc(step)
        assert block is not None
        live.append(block)
    elif live:
        allocator.free(live.pop(-step % len(live)))


def _check(allocator: CachingAllocator, live: list[Block]) -> None:
    requested = sum(block.requested for block in live)
    assert requested <= sum(AllocatorRules().round_size(block.requested) for block in live) <= allocator.allocated_bytes
    assert allocator.allocated_bytes == sum(block.size for block in live) <= allocator.reserved_bytes
    mapped = 0
    used = []
    for blocks in allocator.segments():
        for before, after in itertools.pairwise(blocks):
            assert before.address + before.size == after.address, "blocks lie side by side and never overlap"
            assert after.previous is before
            both_free = not before.used and not after.used
            assert not (both_free and before.mapped == after.mapped), "neighbours that are alike are one block"
        assert all(block.size > 0 and block.size % MIN_BLOCK == 0 for block in blocks)
        mapped += sum(block.size for block in blocks if block.mapped)
        used += [block for block in blocks if block.used]
    assert mapped == allocator.reserved_bytes
    assert {id(block) for block in used} == {id(block) for block in live}
    spans = sorted((blocks[0].address, blocks[-1].address + blocks[-1].size) for blocks in allocator.segments())
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


@BOTH
@given(steps=STEPS)
@settings(max_examples=150)
def test_what_is_held_covers_what_is_used_and_nothing_overlaps(rules: AllocatorRules, steps: list[int]) -> None:
    allocator, live = CachingAllocator(rules), []
    for step in steps:
        _apply(allocator, live, step)
        _check(allocator, live)
    peak = allocator.peak_reserved_bytes
    assert peak >= allocator.peak_allocated_bytes
    for block in live:
        allocator.free(block)
    assert allocator.allocated_bytes == 0
    allocator.empty_cache()
    assert allocator.reserved_bytes == 0, "after all is freed and emptied nothing is held"
    assert allocator.peak_reserved_bytes == peak
    fetched = sum(change.nbytes if change.kind == "alloc" else -change.nbytes for change in allocator.changes)
    assert fetched == 0


def _events(steps: list[int]) -> list[Event]:
    """The steps as events that say the same."""
    events: list[Event] = []
    live: list[Event] = []
    for number, step in enumerate(steps):
        if step > 0:
            live.append(Event("alloc", number, step, "activations"))
            events.append(live[-1])
        elif live:
            gone = live.pop(-step % len(live))
            events.append(Event("free", gone.id, gone.nbytes, gone.label))
    return events


@BOTH
@given(steps=STEPS)
def test_a_replay_is_the_same_every_time(rules: AllocatorRules, steps: list[int]) -> None:
    events = _events(steps)
    first = replay(events, rules)
    assert first == replay(events, rules)
    assert first.num_retries == 0
    assert first == replay(events, rules, limit_bytes=first.peak_reserved + LARGE_BUFFER)


@BOTH
@given(steps=STEPS, share=st.floats(0.1, 1.0))
@settings(max_examples=150)
def test_a_limit_is_held_or_the_allocation_that_does_not_fit_is_named(
    rules: AllocatorRules, steps: list[int], share: float
) -> None:
    events = _events(steps)
    limit = int(replay(events, rules).peak_reserved * share)
    # with expandable segments torch compares the request, not the pages that it then maps
    bound = limit + (LARGE_BUFFER - 1 if rules.expandable_segments else 0)
    refused, kept = None, None
    try:
        kept = replay(events, rules, limit_bytes=limit)
    except DoesNotFit as error:
        refused = error
    if refused is not None:
        assert refused.event in events
        assert refused.reserved_bytes + refused.segment_bytes > limit
        assert refused.reserved_bytes <= bound
        assert "does not fit" in str(refused)
    else:
        assert kept is not None
        assert kept.peak_reserved <= bound


@BOTH
def test_cached_memory_is_given_back_before_memory_is_out(rules: AllocatorRules) -> None:
    events = [Event("alloc", 0, 30 * MIB, "x"), Event("free", 0, 30 * MIB, "x"), Event("alloc", 1, 50 * MIB, "x")]
    limit = 60 * MIB
    free = replay(events, rules)
    assert free.peak_reserved == (60 * MIB if rules.expandable_segments else 80 * MIB)
    held = replay(events, rules, limit_bytes=limit)
    assert held.num_retries == 1
    assert held.peak_reserved <= limit
    with pytest.raises(DoesNotFit, match="does not fit") as raised:
        replay(events, rules, limit_bytes=49 * MIB)
    assert raised.value.event == events[2]
    assert (raised.value.requested_bytes, raised.value.allocated_bytes) == (50 * MIB, 0)


def test_sizes_are_rounded_as_torch_does() -> None:
    assert [AllocatorRules().round_size(size) for size in (1, 512, 513, 1000)] == [512, 512, 1024, 1024]
    sizes = (512, SMALL_SIZE, SMALL_SIZE + 512, 10 * MIB - 512, 10 * MIB, 10 * MIB + 512, 21 * MIB)
    assert [AllocatorRules().segment_size(size) // MIB for size in sizes] == [2, 2, 20, 20, 10, 12, 22]


def test_small_requests_share_a_segment_and_large_ones_leave_small_rests_whole() -> None:
    allocator = CachingAllocator()
    first, second = allocator.malloc(100), allocator.malloc(600)
    assert first is not None
    assert second is not None
    assert (first.size, second.size, second.address - first.address) == (512, 1024, 512)
    assert allocator.reserved_bytes == 2 * MIB
    large = allocator.malloc(19 * MIB)  # a segment of 20 MiB, of which 1 MiB is too little to split off
    assert large is not None
    assert large.size == 20 * MIB
    other = allocator.malloc(19 * MIB // 2)  # 20 MiB, split: more than 1 MiB is left
    assert other is not None
    assert other.size == 19 * MIB // 2


def test_the_smallest_block_that_fits_is_taken_and_neighbours_join() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(size * MIB) for size in (2, 4, 3, 5)]
    assert allocator.reserved_bytes == 20 * MIB
    assert all(block is not None for block in blocks)
    two, four, three, five = (block for block in blocks if block is not None)
    allocator.free(four)
    allocator.free(two)  # 6 MiB at the front; 6 MiB are free behind the last block
    again = allocator.malloc(6 * MIB)
    assert again is not None
    assert again.address == two.address == 0, "of equal sizes the lowest address"
    allocator.free(three)
    tight = allocator.malloc(3 * MIB)
    assert tight is not None
    assert tight.address == 6 * MIB, "3 MiB fit the hole of 3 MiB better than that of 6 MiB"
    assert five.used
    assert allocator.reserved_bytes == 20 * MIB


def test_expandable_segments_grow_behind_what_is_there() -> None:
    allocator = CachingAllocator(EXPANDABLE)
    allocator.malloc(15 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    second = allocator.malloc(15 * MIB)  # 5 MiB are left, one page more serves it
    assert second is not None
    assert (second.address, allocator.reserved_bytes) == (15 * MIB, 40 * MIB)
    allocator.malloc(10)
    assert allocator.reserved_bytes == 42 * MIB


@BOTH
def test_a_request_may_be_larger_than_any_device(rules: AllocatorRules) -> None:
    """A plan for an absurd batch says how absurd it is."""
    allocator = CachingAllocator(rules)
    allocator.malloc(3 * MIB)
    huge = allocator.malloc(2**52 + 1)
    assert huge is not None
    assert 2**52 < huge.size <= allocator.reserved_bytes < 2**52 + 64 * MIB
    allocator.free(huge)
    allocator.malloc(2**51)
    assert allocator.reserved_bytes < 2**52 + 64 * MIB


def test_mistakes_are_told() -> None:
    allocator = CachingAllocator()
    assert allocator.malloc(0) is None
    block = allocator.malloc(5)
    assert block is not None
    allocator.free(block)
    with pytest.raises(ValueError, match="not in use"):
        allocator.free(block)
    with pytest.raises(ValueError, match="at least 0"):
        allocator.malloc(-1)
    with pytest.raises(ValueError, match="second time"):
        replay([Event("alloc", 0, 5, "x"), Event("alloc", 0, 5, "x")])
    with pytest.raises(ValueError, match="never made"):
        replay([Event("free", 3, 5, "x")])
