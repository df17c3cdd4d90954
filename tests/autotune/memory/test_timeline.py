"""What is kept of a process's memory over time: few pairs, never without the peak, in the order of time."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.memory.guard import Guard
from autotune.memory.process import ProcessMeter
from autotune.memory.timeline import LONGEST, Timeline
from tests.autotune.memory.children import child, wait_until

GAPS = st.floats(min_value=0.0, max_value=1e4, allow_nan=False)
READINGS = st.lists(st.tuples(GAPS, st.integers(0, 2**40)), max_size=300)
GROWS_AND_SHRINKS = """
import time
print("ready", flush=True)
time.sleep(0.5)
held = b"x" * 120_000_000
time.sleep(0.5)
del held
time.sleep(60)
"""


def noted(readings: list[tuple[float, int]], longest: int) -> tuple[list[tuple[float, int]], Timeline]:
    """The readings, whose times are given as gaps, at their times; and the timeline that took them."""
    timeline, now, all_of_them = Timeline(longest), 0.0, []
    for gap, held in readings:
        now += gap
        all_of_them.append((now, held))
        timeline.note(now, held)
    return all_of_them, timeline


@given(readings=READINGS, longest=st.integers(2, 40))
def test_the_peak_is_kept_in_few_pairs_that_were_all_read(readings: list[tuple[float, int]], longest: int) -> None:
    taken, timeline = noted(readings, longest)
    pairs = timeline.pairs()
    assert len(pairs) <= longest
    assert bool(pairs) == bool(taken)
    assert set(pairs) <= set(taken)
    assert [at for at, _ in pairs] == sorted(at for at, _ in pairs)
    assert max((held for _, held in pairs), default=0) == max((held for _, held in taken), default=0)


@given(readings=READINGS, longest=st.integers(2, 40))
def test_each_kept_reading_is_the_highest_near_it(readings: list[tuple[float, int]], longest: int) -> None:
    """Between two readings that are kept no reading was above both."""
    taken, timeline = noted(readings, longest)
    kept = timeline.pairs()
    for (begin, low), (end, high) in itertools.pairwise(kept):
        assert all(held <= max(low, high) for at, held in taken if begin < at < end)


def test_days_take_as_little_room_as_seconds_and_are_covered_to_their_end() -> None:
    timeline = Timeline()
    for reading in range(500_000):
        timeline.note(reading * 0.5, reading % 1000)
    pairs = timeline.pairs()
    assert LONGEST / 2 <= len(pairs) <= LONGEST
    assert pairs[0][0] < 3600
    assert pairs[-1][0] > 249_000 - 3600


def test_a_reading_costs_next_to_nothing() -> None:
    timeline, count = Timeline(), 200_000
    began = time.process_time()
    for reading in range(count):
        timeline.note(reading * 0.04, reading)
    assert (time.process_time() - began) / count < 2e-5, "a guard reads every 40 ms"


@pytest.mark.parametrize(("longest", "stretch"), [(1, 0.1), (240, 0.0)])
def test_a_timeline_that_cannot_be_is_refused(longest: int, stretch: float) -> None:
    with pytest.raises(ValueError, match="at least 2 pairs"):
        Timeline(longest, stretch)


def test_the_guard_sees_memory_rise_and_fall() -> None:
    with child(GROWS_AND_SHRINKS) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Guard(process.pid, 10**12, ProcessMeter(), 0.01) as guard:
            wait_until(lambda: guard.peak_bytes > 120_000_000)
            wait_until(lambda: guard.over_time.pairs()[-1][1] < 100_000_000)
        pairs = guard.over_time.pairs()
    assert max(held for _, held in pairs) == guard.peak_bytes
    assert pairs[0][1] < 100_000_000
    (peak_at,) = [at for at, held in pairs if held == guard.peak_bytes][:1]
    assert 0.0 <= pairs[0][0] < peak_at < pairs[-1][0]
