"""The process that fills a store: it loads the backbone, measures, decides, computes, and ends, so that nothing of it stays.

It reads one JSON object (:class:`autotune.features.errand.Errand`) from its standard input and writes JSON lines to the file
descriptor whose number it is given, else to its standard output: ``{"note": ...}``, ``{"computing": true}`` before the first
pass of more than a row, ``{"rows": [done, all]}`` and at last
``{"stored": {...}}`` (:class:`autotune.features.errand.Stored`) or ``{"failed": ...}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from autotune.errors import AutotuneError, StoreError
from autotune.features.build import row_layouts
from autotune.features.deciding import measure_here
from autotune.features.errand import Errand, Stored
from autotune.features.filling import fill_missing, look_alone, once, tell
from autotune.features.marks import PARTS
from autotune.features.present import Held, Layouts
from autotune.features.rule import Decision
from autotune.features.shared import store_key
from autotune.features.store import FeatureStore
from sherl.backbones import Backbone, load_backbone
from sherl.data import PreparedData
from sherl.errors import SherlError, SpecError
from sherl.features import Place
from sherl.precision import weights_dtype


def fill(errand: Errand, say: Callable[[dict[str, Any]], None]) -> Stored:
    """Measure, decide and store. What lies there already is read even if nothing can be added.

    Raises:
        StoreError, StoreFull: the folder cannot be written or the disk is full, and nothing lies there already.
        SherlError: backbone or data cannot be read.
    """
    began, say = time.perf_counter(), once(say)
    torch.set_num_threads(errand.threads)
    if errand.device == "cuda" and errand.allocator_bytes is not None:
        _, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(1.0, errand.allocator_bytes / total))
    data = PreparedData.open(errand.prepared)
    backbone = load_backbone(errand.source, dtype=weights_dtype(errand.precision))
    backbone.model.to(errand.device)
    try:
        key = store_key(backbone, errand.precision, data, errand.device)
    except SpecError as error:  # nobody could tell later whether what lies there is of the same code
        return Stored(key={}, verdict="none", places=(), bytes=0, seconds=0.0, reason=str(error))
    store = FeatureStore.open(Path(errand.root), key)
    layouts = _layouts(backbone, data, frozenset(place for one in errand.wanted for place in one.places))
    with ExitStack() as stack:
        held = stack.enter_context(Held(store))
        problem = look_alone(store, layouts, held, stack, say)
        wanted = [one for one in errand.wanted if held.lost.keys().isdisjoint(one.places)]
        readable = {place for one in wanted for place in one.places}
        sizes = {place: sum(layouts[part][place].file_bytes for part in PARTS) for place in readable}
        if held.lost and not wanted:
            reason = " ".join(dict.fromkeys(held.lost.values()))
            decision = Decision(verdict="none", places=frozenset(), gain_seconds=0.0, reason=reason)
        else:
            present = held.whole() & sizes.keys()
            say({"computing": True})
            rows = errand.rows
            measured = measure_here(errand.mode, wanted, backbone, data, store, sizes, present, problem, rows=rows)
            of_these = {part: {place: layouts[part][place] for place in readable} for part in PARTS}
            decision = fill_missing(store, held, of_these, measured, errand.budget, backbone, data, say, rows=rows)
        if held.lost and decision.verdict == "all":
            decision = replace(decision, verdict="some")
        held.hand_over(decision.places)
    tell(store.notes, say)
    return Stored(
        key=key,
        verdict=decision.verdict,
        places=tuple(sorted(decision.places)),
        bytes=sum(sizes[place] for place in decision.places),
        seconds=time.perf_counter() - began,
        reason=decision.reason,
        slower=tuple(sorted(tuple(sorted(places)) for places in decision.slower)),
    )


def _layouts(backbone: Backbone, data: PreparedData, places: frozenset[Place]) -> Layouts:
    return {part: row_layouts(backbone, data.part(part), places) if places else {} for part in PARTS}


def main() -> None:
    """Reads an errand, does it, and tells; exit code 1, and why, where it could not be done."""
    errand = Errand.from_json(sys.stdin.readline())
    if len(sys.argv) > 1:
        descriptor = int(sys.argv[1])
        os.set_inheritable(descriptor, False)
    else:
        descriptor = os.dup(1)
    sys.stdout = sys.stderr  # whatever libraries print is none of the messages
    with open(descriptor, "w", encoding="utf-8") as channel:

        def say(message: dict[str, Any]) -> None:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

        try:
            for plugin in errand.plugins:
                _import(plugin)
            say({"stored": asdict(fill(errand, say))})
        except (AutotuneError, SherlError, OSError, RuntimeError, ValueError, MemoryError) as error:
            lines = str(error).strip().splitlines()
            said = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
            sys.stderr.write(f"{said}\n")
            say({"failed": said})
            raise SystemExit(1) from error


def _import(plugin: str) -> None:
    """Raises:
    StoreError: it cannot be.
    """
    try:
        importlib.import_module(plugin)
    except (ImportError, SyntaxError, ValueError) as error:
        raise StoreError(
            f"The plugin {plugin!r} could not be imported by the process that stores hidden states "
            f"({type(error).__name__}: {error}). Install it where {sys.executable} finds it, or leave it out."
        ) from error


if __name__ == "__main__":
    main()
