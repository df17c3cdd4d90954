"""Histories that torch's own allocator recorded, against the model: each is met segment by segment.

No GPU made them: the compiled allocator of torch's CUDA wheels served the requests over a stand-in that hands out addresses
(``python benchmarks/real_allocator.py --histories tests/autotune/memory/histories``).
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.allocator_settings import VARIABLES, AllocatorSettings
from autotune.memory.caching_allocator import DoesNotFit
from autotune.memory.history import Comparison, History, compare, history_from_trace

FILES = sorted((Path(__file__).parent / "histories").glob("*.json.gz"))


def recorded(file: Path) -> tuple[dict[str, Any], History, AllocatorRules]:
    """What is told of a history, the history, and how the model follows what the allocator was told."""
    content: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    told = AllocatorSettings.of({VARIABLES[0]: content["settings"]}, torch=content["torch"])
    return content, history_from_trace(content.pop("trace")), told.rules


def same(comparison: Comparison) -> bool:
    return comparison.same_segments and comparison.same_refusals


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.removesuffix(".json.gz"))
def test_a_history_of_torchs_allocator_is_met_segment_by_segment(file: Path) -> None:
    content, history, rules = recorded(file)
    comparison = compare(history, rules, limit_bytes=content["limit_bytes"])
    assert comparison.same_segments
    assert comparison.same_refusals
    assert comparison.modelled_peak == comparison.recorded_peak == content["peak_reserved"], "torch's own count"
    assert content["limit_bytes"] is None or comparison.recorded_peak < content["limit_bytes"] + (
        rules.large_segment_bytes if rules.expandable_segments else 1
    )


def test_the_histories_reach_what_is_to_be_shown() -> None:
    """Versions, expandable segments, settings, limits, memory that runs out, and cached memory given back before."""
    contents, histories, rules = zip(*map(recorded, FILES), strict=True)
    assert {content["torch"] for content in contents} == {"2.11.0", "2.12.1", "2.13.0"}
    assert {one.expandable_segments for one in rules} == {False, True}
    assert any(one.max_split_bytes for one in rules)
    assert any(one.divisions for one in rules)
    assert any(history.refused for history in histories)
    assert any(change.kind == "free" for history in histories for change in history.changes)
    assert sum(content["configuration"].startswith("random") for content in contents) >= 6
    assert sum(not content["configuration"].startswith("random") for content in contents) >= 7


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(AllocatorRules)])
def test_each_rule_is_needed_to_meet_them(name: str) -> None:
    default = getattr(AllocatorRules(), name)
    others = []
    for file in FILES:
        content, history, rules = recorded(file)
        if getattr(rules, name) != default:
            without = dataclasses.replace(rules, **{name: default})
            try:
                others.append(same(compare(history, without, limit_bytes=content["limit_bytes"])))
            except DoesNotFit:
                others.append(False)
    assert False in others, f"no history differs without {name}"
