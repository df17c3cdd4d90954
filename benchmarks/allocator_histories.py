"""Histories that torch's own allocator recorded over the stand-in, kept as test data of the model."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from allocator_build import DEVICE_BYTES, TORCH, RealAllocator
from allocator_sequences import PROFILES, Requests, draw, draw_settings, modelled
from allocator_traces import chosen, requests_of, traced

from autotune.memory.history import joined
from autotune.memory.replay import replay

EXPANDABLE = "expandable_segments:True"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A history to record. configuration: a name of :func:`allocator_traces.chosen`; "" where requests are random. settings: what
    the allocator is told. share: of what it would hold that it may hold; None: all."""

    torch: str
    configuration: str = ""
    settings: str = ""
    share: float | None = None


TRACED = (
    Kept(torch="2.13.0", configuration="resnet-50 linear_probe, fp32, 8 rows"),
    Kept(torch="2.13.0", configuration="bert-base sherl, bf16, 8 rows"),
    Kept(torch="2.13.0", configuration="bert-base sherl, bf16, 8 rows", settings=EXPANDABLE),
    Kept(torch="2.12.1", configuration="bert-base full, fp32, 8 rows"),
    Kept(torch="2.12.1", configuration="resnet-50 sherl, bf16, 32 rows", settings="max_split_size_mb:32"),
    Kept(torch="2.11.0", configuration="gpt2 sherl, bf16, 8 rows", settings=EXPANDABLE, share=0.97),
    Kept(
        torch="2.11.0",
        configuration="vilt-b32 sherl, bf16, 8 rows",
        settings="roundup_power2_divisions:8,large_segment_size_mb:64",
    ),
)
LEAST = 200  # requests of a random history


def keep(folder: Path) -> None:
    """Records each, as ``NAME.json.gz``."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {name: place for place, (name, _) in enumerate(chosen())}
    for place, kept in enumerate(TRACED):
        allocator = RealAllocator(kept.torch)
        number = numbers[kept.configuration]
        events = traced(chosen()[number][1], number)
        fraction = None
        if kept.share is not None:
            fraction = replay(events, allocator.rules(kept.settings)).peak_reserved * kept.share / DEVICE_BYTES
        record(folder / f"traced-{place}.json.gz", allocator, requests_of(events), kept, fraction)
    for version in TORCH:
        for telling in (False, True):
            drawn = telling_much(RealAllocator(version)) if telling else running_out(RealAllocator(version))
            kept = Kept(torch=version, settings=drawn.settings)
            name = f"random-{version}-{'settings' if telling else 'limit'}.json.gz"
            record(folder / name, RealAllocator(version), drawn.requests, kept, drawn.fraction)


def running_out(allocator: RealAllocator) -> Requests:
    """Random requests under a limit that memory runs out of."""
    draws = random.Random(0)
    while True:
        drawn = without_empty(draw(draws))
        served = allocator.serve(drawn.lines)
        if len(drawn.requests) > LEAST and any(entry["action"] == "oom" for entry in served.trace):
            return drawn


def telling_much(allocator: RealAllocator) -> Requests:
    """Random requests that go another way without the rarest of settings."""
    draws = random.Random(0)
    while True:
        drawn = without_empty(draw(draws, draw_settings(draws)))
        rules = allocator.rules(drawn.settings)
        limit = None if drawn.fraction is None else allocator.limit_bytes(drawn.fraction)
        other = modelled(drawn, dataclasses.replace(rules, max_unsplit_rounding_bytes=None), limit)
        if len(drawn.requests) > LEAST and joined(other.changes) != joined(modelled(drawn, rules, limit).changes):
            return drawn


def without_empty(drawn: Requests) -> Requests:
    """Without what empties the cache: no history shows that."""
    return dataclasses.replace(drawn, requests=tuple(one for one in drawn.requests if one != "empty"))


def record(file: Path, allocator: RealAllocator, requests: Iterable[str], kept: Kept, fraction: float | None) -> None:
    """One history, its entries as ``torch.cuda.memory._snapshot()`` has them, with what the allocator was told."""
    limit = [] if fraction is None else [f"limit {fraction!r}"]
    served = allocator.serve((*limit, *requests), settings=kept.settings)
    content = {
        "torch": kept.torch,
        "configuration": kept.configuration or f"random requests of one of {', '.join(PROFILES)} sizes",
        "settings": kept.settings,
        "limit_bytes": None if fraction is None else allocator.limit_bytes(fraction),
        "peak_reserved": served.peak_reserved,
        "trace": served.trace,
    }
    # no time in the file: the same history is the same file
    file.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0))
    print(f"{file.name}: {len(served.trace)} entries, {file.stat().st_size} bytes", flush=True)
