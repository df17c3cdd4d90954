"""The process that fills a store: it loads the backbone, measures, decides, computes, and ends, so that nothing of it stays.

It reads one JSON object (:class:`autotune.features.errand.Errand`) from its standard input and writes JSON lines to the file
descriptor whose number it is given, else to its standard output: ``{"note": ...}``, ``{"rows": [done, all]}`` and at last
``{"stored": {...}}`` (:class:`autotune.features.errand.Stored`) or ``{"failed": ...}``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autotune.errors import AutotuneError, StoreError, StoreFull
from autotune.features.build import build, row_layouts
from autotune.features.deciding import BATCH_SIZE, budget_of, decide_here
from autotune.features.errand import Errand, Stored
from autotune.features.layout import Layout
from autotune.features.rule import Decision, described
from autotune.features.shared import PARTS, store_key
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
    began = time.perf_counter()
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
    root, notes = Path(errand.root), list[str]()
    store = FeatureStore.open(root, key, notes=notes)
    with ExitStack() as held:  # what lies there already is not evicted meanwhile, by this process neither
        present, lost = _opened(store, frozenset(place for one in errand.wanted for place in one.places), held)
        wanted = [one for one in errand.wanted if lost.keys().isdisjoint(one.places)]
        layouts = _layouts(backbone, data, frozenset(place for one in wanted for place in one.places))
        sizes = {place: sum(layouts[part][place].file_bytes for part in PARTS) for place in layouts[PARTS[0]]}
        present &= sizes.keys()
        budget = budget_of(errand.budget, store)
        if lost and not wanted:
            decision = Decision(
                verdict="none", places=frozenset(), gain_seconds=0.0, reason=" ".join(dict.fromkeys(lost.values()))
            )
        else:
            decision = decide_here(errand.mode, wanted, backbone, data, store, sizes, present, budget)
        if lost and decision.verdict == "all":
            decision = replace(decision, verdict="some")
        _tell(notes, say)
        missing = decision.places - present
        try:
            if missing:
                _make_room(store, sum(sizes[place] for place in missing), budget)
                _write(store, backbone, data, {part: _of(layouts[part], missing) for part in PARTS}, say)
        except StoreError as error:
            there = decision.places & present
            if not there:
                raise
            reason = f"{described(there, sizes)}, which lay there already; nothing was added: {error}"
            decision = replace(decision, verdict="some", places=there, reason=reason)
    _tell(notes, say)
    return Stored(
        key=key,
        verdict=decision.verdict,
        places=tuple(sorted(decision.places)),
        bytes=sum(sizes[place] for place in decision.places),
        seconds=time.perf_counter() - began,
        reason=decision.reason,
    )


def _opened(
    store: FeatureStore, places: frozenset[Place], held: ExitStack
) -> tuple[frozenset[Place], dict[Place, str]]:
    """What lies there whole, of all parts, open until ``held`` ends; and what can neither be read nor stored anew, with the
    reason. Once a study: what was damaged since is found here, and taken out of use."""
    whole, lost = set(), dict[Place, str]()
    for place in sorted(places):
        with ExitStack() as verified:
            opened = []
            for part in PARTS:
                if not store.has(part, place):
                    continue
                reader = store.reader(part, [place], verify=True)
                if reader is not None:
                    verified.enter_context(reader)
                    opened.append(part)
                elif store.has(part, place):
                    lost[place] = store.notes[-1]
            if len(opened) < len(PARTS):
                continue
            # opened again: the pages that were just read are let go with the first
            again = [store.reader(part, [place]) for part in PARTS]
        for one in again:
            if one is not None:
                held.enter_context(one)
        whole |= {place} if None not in again else set()
    return frozenset(whole), lost


def _make_room(store: FeatureStore, needed: int, budget: int) -> None:
    """Raises:
    StoreFull: there is none.
    """
    room = store.make_room(needed, budget)
    if not room.enough:
        raise StoreFull(store.notes.pop(), needed=needed, free=room.free)


def _write(
    store: FeatureStore,
    backbone: Backbone,
    data: PreparedData,
    layouts: Mapping[str, Mapping[tuple[str, int], Layout]],
    say: Callable[[dict[str, Any]], None],
) -> None:
    rows = sum(len(data.part(part)) for part in PARTS)
    done = 0
    for part in PARTS:
        with store.writer(part, layouts[part]) as writer:
            build(
                backbone,
                data.part(part),
                writer,
                batch_size=BATCH_SIZE,
                on_batch=partial(_progress, say, before=done, rows=rows),
            )
        done += len(data.part(part))


def _progress(say: Callable[[dict[str, Any]], None], now: int, *, before: int, rows: int) -> None:
    say({"rows": [before + now, rows]})


def _layouts(backbone: Backbone, data: PreparedData, places: frozenset[Place]) -> dict[str, dict[Place, Layout]]:
    return {part: row_layouts(backbone, data.part(part), places) if places else {} for part in PARTS}


def _of(layouts: Mapping[Place, Layout], places: frozenset[Place]) -> dict[tuple[str, int], Layout]:
    return {place: layouts[place] for place in sorted(places)}


def _tell(notes: list[str], say: Callable[[dict[str, Any]], None]) -> None:
    told, notes[:] = list(notes), []
    for text in told:
        say({"note": text})


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
                importlib.import_module(plugin)
            say({"stored": asdict(fill(errand, say))})
        except (AutotuneError, SherlError, OSError, RuntimeError, MemoryError) as error:
            lines = str(error).strip().splitlines()
            said = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
            sys.stderr.write(f"{said}\n")
            say({"failed": said})
            raise SystemExit(1) from error


if __name__ == "__main__":
    main()
