"""Recorded allocator histories against the model. The snapshots are written by hand in torch's form; no GPU made them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.caching_allocator import DoesNotFit
from autotune.memory.history import HistoryError, compare, history_from_trace

MIB = 2**20
BASE = 0x7F0000000000
SMALL = 0x7F0010000000


def _entry(action: str, address: int, size: int, stream: int = 0) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size, "stream": stream, "time_us": 1, "frames": []}


def _freed(address: int, size: int) -> list[dict[str, Any]]:
    return [_entry("free_requested", address, size), _entry("free_completed", address, size)]


# 5 MiB and 6 MiB share a segment of 20 MiB; 12.5 MiB gets one of 14 MiB; 1000 bytes a small one of 2 MiB.
# The 5 MiB block is freed and serves 4.5 MiB.
DEFAULT = [
    _entry("segment_alloc", BASE, 20 * MIB),
    _entry("alloc", BASE, 5 * MIB),
    _entry("alloc", BASE + 5 * MIB, 6 * MIB),
    _entry("segment_alloc", BASE + 20 * MIB, 14 * MIB),
    _entry("alloc", BASE + 20 * MIB, 25 * MIB // 2),
    _entry("segment_alloc", SMALL, 2 * MIB),
    _entry("alloc", SMALL, 1000),
    *_freed(BASE, 5 * MIB),
    _entry("alloc", BASE, 9 * MIB // 2),
    {"action": "snapshot", "addr": 0, "size": 0, "stream": 0},
]

EXPANDABLE = [
    _entry("segment_map", BASE, 20 * MIB),
    _entry("alloc", BASE, 5 * MIB),
    _entry("alloc", BASE + 5 * MIB, 6 * MIB),
    _entry("segment_map", BASE + 20 * MIB, 20 * MIB),
    _entry("alloc", BASE + 11 * MIB, 25 * MIB // 2),
    _entry("segment_map", SMALL, 2 * MIB),
    _entry("alloc", SMALL, 1000),
]


def test_a_recorded_history_is_met_segment_by_segment() -> None:
    comparison = compare(history_from_trace(DEFAULT))
    assert [change.nbytes for change in comparison.recorded] == [20 * MIB, 14 * MIB, 2 * MIB]
    assert comparison.same_segments
    assert comparison.recorded_peak == comparison.modelled_peak == 36 * MIB
    assert comparison.error == 0


def test_a_history_of_expandable_segments_is_met() -> None:
    comparison = compare(history_from_trace(EXPANDABLE), AllocatorRules(expandable_segments=True))
    assert comparison.same_segments
    assert comparison.modelled_peak == 42 * MIB


def test_a_difference_shows() -> None:
    other = compare(history_from_trace(EXPANDABLE))
    assert not other.same_segments
    assert other.error == pytest.approx((36 - 42) / 42)
    swapped = [DEFAULT[3], DEFAULT[0], *DEFAULT[1:3], *DEFAULT[4:]]
    assert not compare(history_from_trace(swapped)).same_segments, "the order counts"


def test_mapping_page_by_page_is_the_same() -> None:
    pages = [_entry("segment_map", BASE + place * 20 * MIB, 20 * MIB) for place in range(3)]
    history = history_from_trace([*pages, _entry("alloc", BASE, 45 * MIB)])
    assert compare(history, AllocatorRules(expandable_segments=True)).same_segments


def test_what_was_given_back_under_a_limit_is_met() -> None:
    history = history_from_trace(
        [
            _entry("segment_alloc", BASE, 30 * MIB),
            _entry("alloc", BASE, 30 * MIB),
            *_freed(BASE, 30 * MIB),
            _entry("segment_free", BASE, 30 * MIB),
            _entry("segment_alloc", BASE, 40 * MIB),
            _entry("alloc", BASE, 40 * MIB),
        ]
    )
    assert compare(history, limit_bytes=50 * MIB).same_segments
    assert not compare(history).same_segments, "nothing is given back where all is allowed"
    with pytest.raises(DoesNotFit):
        compare(history, limit_bytes=35 * MIB)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"action": "alloc", "addr": 1}], "no size"),
        (_freed(BASE, 5), "begin to record before"),
        ([_entry("alloc", BASE, 5), _entry("alloc", BASE, 5)], "live already"),
        ([_entry("alloc", BASE, 5), _entry("alloc", BASE + 512, 5, stream=7)], "streams"),
    ],
)
def test_a_history_that_cannot_be_replayed_says_why(entries: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(HistoryError, match=words):
        history_from_trace(entries)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it records")
def test_the_benchmark_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "allocator_history.py"
    command = [sys.executable, str(script), "--json", str(tmp_path / "result.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "No GPU" in ended.stdout
    assert not (tmp_path / "result.json").exists()
