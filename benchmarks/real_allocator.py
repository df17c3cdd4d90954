"""torch's own caching allocator for CUDA against the model of it, without a GPU.

    python benchmarks/real_allocator.py

The CUDA wheels of torch hold the allocator in a small library, which asks the CUDA runtime for memory and never looks at it. Here it
runs over a stand-in that hands out addresses (``allocator_build.py``), for several versions of torch. Compared are:

- random requests, under torch's defaults, expandable segments and other settings, half of them under a limit: segments
  fetched and given back in their order, the peak, the requests for which memory was out, and addresses;
- the settings themselves: what torch's parser takes, refuses and makes of random text;
- the allocations that this project traces for models of real size: what is reserved, for addresses of segments that rise, fall
  or do both, and under caps, set as a trial sets them.

What no stand-in shows: which addresses a GPU hands out, what kernels, cuBLAS and cuDNN ask for, and the context. `--histories
FOLDER` keeps histories that the real allocator recorded (``tests/autotune/memory/histories`` are such). It needs gcc, g++, the
package index (1.6 GB are fetched, 7 MB kept) and 40 minutes of two cores; with `--sequences 100 --strings 100 --only vit` four.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import allocator_strings
from allocator_build import ORDERS, TORCH, BuildError, Order, RealAllocator
from allocator_histories import keep
from allocator_sequences import compared, draw, draw_settings
from allocator_traces import chosen, row, traced
from conditions import write_result

KINDS = {"defaults": "", "expandable segments": "expandable_segments:True"}
OTHERS = "other settings"
STRIDE = 11


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="where the result goes")
    parser.add_argument("--histories", type=Path, default=None, help="keep recorded histories in this folder, and end")
    parser.add_argument("--torch", nargs="+", choices=sorted(TORCH), default=sorted(TORCH), help="versions of torch")
    parser.add_argument("--sequences", type=int, default=2000, help="random sequences of each kind")
    parser.add_argument("--strings", type=int, default=5000, help="random settings")
    parser.add_argument("--only", default="", help="only configurations whose name has this text")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    arguments = parser.parse_args()
    numbers = [place for place, (name, _) in enumerate(chosen()) if arguments.only in name]
    if not numbers:
        parser.error(f"no configuration has {arguments.only!r} in its name, e.g. {chosen()[0][0]!r}")
    try:
        for version in TORCH if arguments.histories else arguments.torch:
            RealAllocator(version)
    except BuildError as error:
        sys.exit(f"torch's allocator cannot be had here: {error}")
    if arguments.histories is not None:
        keep(arguments.histories)
        return
    result: dict[str, Any] = {"settings": {"sequences": arguments.sequences, "strings": arguments.strings}}
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [
            (version, kind, order, arguments.sequences)
            for version in arguments.torch
            for kind in (*KINDS, OTHERS)
            for order in (ORDERS if kind != OTHERS else ORDERS[:1])
        ]
        result["sequences"] = list(_told(pool.map(sequences, runs)))
        result["parser"] = list(_told(pool.map(strings, [(version, arguments.strings) for version in arguments.torch])))
        # of every model from the start, since what is done is written at once
        numbers.sort(key=lambda place: place % STRIDE)
        result["traces"] = []
        for one in _told(pool.map(traces, [(number, arguments.torch) for number in numbers])):
            result["traces"].append(one)
            result["summary"] = summary(result["traces"], arguments.torch)
            written = write_result("real_allocator", result, arguments.json)
    print(result["summary"])
    print(f"written to {written}")


def sequences(run: tuple[str, str, Order, int]) -> dict[str, Any]:
    """Random sequences of a kind: how many were the same, in what the others differ, and by how much their peaks."""
    version, kind, order, count = run
    allocator = RealAllocator(version)
    found: Counter[str] = Counter()
    peaks: list[float] = [0.0]
    refused = requests = 0
    for seed in range(count):
        draws = random.Random(seed)
        sequence = draw(draws, KINDS[kind] if kind in KINDS else draw_settings(draws))
        differs, real, model = compared(allocator, sequence, order)
        found[", ".join(differs) or "same"] += 1
        requests += len(real.addresses)
        refused += any(real.refused)
        if differs:
            peaks.append((model.peak - real.peak) / real.peak)
    return {
        "torch": version,
        "kind": kind,
        "addresses": order,
        "sequences": count,
        "requests": requests,
        "with_memory_out": refused,
        "found": dict(found),
        "peak_error": [min(peaks), max(peaks)],
    }


def strings(run: tuple[str, int]) -> dict[str, Any]:
    """Random settings: how many torch takes, and where this project's reading of them differs."""
    version, count = run
    allocator = RealAllocator(version)
    texts = [allocator_strings.draw(random.Random(seed)) for seed in range(count)]
    differs = {text: words for text in texts if (words := allocator_strings.differences(allocator, text))}
    taken = sum(allocator.settings(text) is not None for text in texts)
    return {"torch": version, "texts": count, "taken": taken, "different": differs}


def traces(run: tuple[int, Sequence[str]]) -> dict[str, Any]:
    """A configuration's allocations, served by each version."""
    number, versions = run
    name, case = chosen()[number]
    events = traced(case, number)
    rows = {version: row(RealAllocator(version), events) for version in versions}
    return {"configuration": name, "events": len(events), "torch": rows}


def summary(rows: Sequence[dict[str, Any]], versions: Sequence[str]) -> dict[str, Any]:
    """Of each version: over all configurations and settings, how many predictions are the real peak to the byte for each order of
    addresses, and how far the others are from it; and what caps did."""
    found = {}
    for version in versions:
        runs = [one["torch"][version] for one in rows]
        peaks = [peak for one in runs for peak in one["peaks"].values()]
        errors = {order: [_error(peak, order) for peak in peaks if order in peak["real"]] for order in ORDERS}
        found[version] = {
            "predictions": {order: len(errors[order]) for order in ORDERS},
            "exact": {order: sum(error == 0 for error in errors[order]) for order in ORDERS},
            "same_segments": {
                order: sum(peak["same_segments"].get(order, False) for peak in peaks) for order in ORDERS
            },
            "error": {order: [min(errors[order]), max(errors[order])] for order in ORDERS},
            "caps": sum(one["caps"] for one in runs),
            "most_beyond_cap": max(one["most_beyond_cap"] for one in runs),
            "out_of_memory": sum(one["out_of_memory"] for one in runs),
            "modelled_otherwise": sum(one["modelled_otherwise"] for one in runs),
            "collected_above": max(one["collected_above"] for one in runs),
        }
    return found


def _error(peak: dict[str, Any], order: Order) -> float:
    return float((peak["predicted"] - peak["real"][order]) / peak["real"][order])


def _told(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in rows:
        print(one if "configuration" not in one else f"{one['configuration']}: {one['events']} events", flush=True)
        yield one


if __name__ == "__main__":
    main()
