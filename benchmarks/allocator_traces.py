"""The allocations that this project traces, served by torch's own allocator: is what it reserves what was predicted?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from accuracy_cases import Case, cases
from accuracy_predictions import Setting, predictor_for
from allocator_build import DEVICE_BYTES, ORDERS, RealAllocator

from autotune.memory.allocator_settings import VARIABLES, AllocatorSettings
from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.events import Event
from autotune.memory.gpu import GpuKind
from autotune.memory.history import history_from_trace, joined
from autotune.memory.nvml_meter import allocator_fraction
from autotune.memory.plans import plans_for
from autotune.memory.replay import replay
from autotune.memory.trace import trace_events

TOLD = (  # what the allocator is told
    "",
    "expandable_segments:True",
    "max_split_size_mb:32",
    "roundup_power2_divisions:8",
    "large_segment_size_mb:64,expandable_segments:True",
)
GENERATIONS = ((8, 0), (9, 0))  # in turn; they take other kernels
WITH_PLANS = {"bert-base": False, "t5-base": True}  # full fine-tuning with the memory plans; whether text is written
MOST_ACCUMULATION = 2  # more repeats the same at greater length
CAPPED = TOLD[:2]
SHARES = (0.8, 0.95, 1.0)  # of what is predicted to be reserved: caps
COLLECTING = "garbage_collection_threshold:0.8"


def chosen(only: str = "") -> list[tuple[str, Case]]:
    """The configurations of ``memory_accuracy.py`` at their real sizes, and memory plans of some; each with its name."""
    found = [(case.label, case) for case in cases("real")]
    for model, writes_text in WITH_PLANS.items():
        case = next(one for _, one in found if one.model == model and one.method == {"name": "full"})
        offered = dataclasses.replace(case.candidate, method={"name": "full", "activation_checkpointing": False})
        for plan in plans_for(offered, writes_text=writes_text):
            if plan.plan and int(plan.plan.get("accumulation", 1)) <= MOST_ACCUMULATION:
                run = plan.realised
                name = f"{case.label}, plan {', '.join(f'{key} {value}' for key, value in plan.plan.items())}"
                found.append((name, dataclasses.replace(case, method=run.method, training=run.training)))
    return [(name, case) for name, case in found if only in name]


def traced(case: Case, number: int) -> list[Event]:
    """Every allocation and free of two training steps and one evaluation step, as on a GPU."""
    gpu = GpuKind.of(GENERATIONS[number % len(GENERATIONS)], {})
    predictor = predictor_for(case, Setting(device="cuda", gpu=gpu))
    return trace_events(predictor.workload(case.candidate), gpu)


def requests_of(events: Iterable[Event]) -> tuple[str, ...]:
    return tuple(
        f"alloc {event.id} {event.nbytes}" if event.kind == "alloc" else f"free {event.id}" for event in events
    )


def row(allocator: RealAllocator, events: Sequence[Event]) -> dict[str, Any]:
    """For each of :data:`TOLD` what is predicted, the real peak for orders of addresses, and for which of them the segments
    that were fetched are the same in their order too; then :func:`capped`."""
    peaks: dict[str, dict[str, Any]] = {}
    requests = requests_of(events)
    for told in TOLD:
        predicted = replay(events, allocator.rules(told))
        entry: dict[str, Any] = {"predicted": predicted.peak_reserved, "real": {}, "same_segments": {}}
        for order in ORDERS if told in CAPPED else ORDERS[:1]:
            real = allocator.serve(requests, settings=told, order=order)
            changes = history_from_trace(real.trace).changes
            entry["real"][order] = real.peak_reserved
            entry["same_segments"][order] = joined(changes) == joined(predicted.changes)
        peaks[told] = entry
    return {"peaks": peaks, **capped(allocator, events)}


def capped(allocator: RealAllocator, events: Sequence[Event]) -> dict[str, Any]:
    """Under caps, as a trial sets its allocator's fraction: how often, the most that was held beyond one (below 0: under all), how
    often memory was out, how often the model did otherwise. And where garbage is collected, how far the peak lay above the
    prediction, which knows nothing of that."""
    beyond: list[int] = []
    above: list[float] = []
    out = otherwise = 0
    requests = requests_of(events)
    for told in CAPPED:
        settings = AllocatorSettings.of({VARIABLES[0]: told}, torch=allocator.version)
        predicted = replay(events, settings.rules).peak_reserved
        for share in SHARES:
            cap = DEFAULT_CONTEXT_BYTES + settings.page_bytes + int(predicted * share)
            fraction = allocator_fraction(cap, DEFAULT_CONTEXT_BYTES, DEVICE_BYTES, page_bytes=settings.page_bytes)
            real = allocator.serve((f"limit {fraction!r}", *requests), settings=told)
            refused = [entry["action"] == "oom" for entry in real.trace if entry["action"] in ("alloc", "oom")]
            model = replay(events, settings.rules, limit_bytes=allocator.limit_bytes(fraction), pass_refused=True)
            beyond.append(real.peak_reserved + DEFAULT_CONTEXT_BYTES - cap)
            out += any(refused)
            otherwise += (model.peak_reserved, len(model.refused)) != (real.peak_reserved, sum(refused))
        fraction = min(1.0, predicted / DEVICE_BYTES)
        collecting = ",".join(filter(None, (told, COLLECTING)))
        real = allocator.serve((f"limit {fraction!r}", *requests), settings=collecting)
        above.append((real.peak_reserved - predicted) / predicted)
    return {
        "caps": len(beyond),
        "most_beyond_cap": max(beyond),
        "out_of_memory": out,
        "modelled_otherwise": otherwise,
        "collected_above": max(above),
    }
