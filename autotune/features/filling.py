"""How a store is filled by one process among others: alone for its key, with all room taken before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from autotune.errors import StoreError, StoreFull
from autotune.features.build import build
from autotune.features.deciding import Measured, choose
from autotune.features.eviction import budget_of
from autotune.features.marks import PARTS
from autotune.features.present import Held, Layouts
from autotune.features.rule import Decision
from autotune.features.store import FeatureStore
from autotune.features.writer import Writer
from sherl.backbones import Backbone
from sherl.data import PreparedData
from sherl.features import Place

Say: TypeAlias = Callable[[dict[str, Any]], None]


def look_alone(store: FeatureStore, layouts: Layouts, held: Held, stack: ExitStack, say: Say) -> str:
    """Hold what lies there of these places. Where some are missing, be the only one that builds this key until ``stack`` ends, and
    look again: another may have built them meanwhile.

    Returns:
        Why nothing can be added, "" if it can.
    """
    held.look(layouts)
    tell(store.notes, say)
    if held.whole() | held.lost.keys() >= layouts[PARTS[0]].keys():
        return ""
    try:
        stack.enter_context(store.building(lambda text: say({"note": text})))
    except StoreError as error:
        return str(error)
    held.look(layouts)
    tell(store.notes, say)
    return ""


def fill_missing(
    store: FeatureStore,
    held: Held,
    layouts: Layouts,
    measured: Measured,
    budget: int | None,
    backbone: Backbone,
    data: PreparedData,
    say: Say,
    *,
    rows: int,
) -> Decision:
    """Decide, and write what is missing of it; ``held`` holds all of it then. layouts: of what may be stored. rows: of a pass.

    Raises:
        StoreError, StoreFull: it cannot be written, and nothing lies there already.
    """
    sizes = {place: sum(layouts[part][place].file_bytes for part in PARTS) for place in layouts[PARTS[0]]}
    present = held.whole() & sizes.keys()
    try:
        with ExitStack() as writing:
            with ExitStack() as alone:
                if not measured.problem and sizes.keys() - present:
                    alone.enter_context(store.room(lambda text: say({"note": text})))
                allowed = budget_of(budget, store.root)
                decision = choose(measured, sizes, store.possible_room(allowed), present)
                missing = decision.places - present
                writers = _entered(store, held, layouts, missing, allowed, writing) if missing else {}
            tell(store.notes, say)
            _write(writers, backbone, data, say, batch_size=rows)
            for part in writers:
                held.take(part, missing)
    except StoreError as error:
        decision = choose(replace(measured, problem=f"nothing was added: {error}"), sizes, 0, present)
        if not decision.places:
            raise
    return decision


def _entered(
    store: FeatureStore, held: Held, layouts: Layouts, missing: frozenset[Place], budget: int, writing: ExitStack
) -> dict[str, Writer]:
    """A writer of each part, with the room of its files taken.

    Raises:
        StoreFull, StoreError: there is no room, or it cannot be written; no file is left.
    """
    needed = sum(layouts[part][place].file_bytes for part in PARTS for place in missing if not held.has(part, place))
    room = store.make_room(needed, budget)
    if not room.enough:
        raise StoreFull(store.notes.pop(), needed=needed, free=room.free)
    return {
        part: writing.enter_context(store.writer(part, {place: layouts[part][place] for place in sorted(missing)}))
        for part in PARTS
    }


def _write(writers: Mapping[str, Writer], backbone: Backbone, data: PreparedData, say: Say, *, batch_size: int) -> None:
    rows = sum(len(data.part(part)) for part in writers)
    done = 0
    for part, writer in writers.items():
        on_batch = partial(_progress, say, before=done, rows=rows)
        build(backbone, data.part(part), writer, batch_size=batch_size, on_batch=on_batch)
        writer.finish()  # whoever comes after a kill need not compute this part again
        done += len(data.part(part))


def _progress(say: Say, now: int, *, before: int, rows: int) -> None:
    say({"rows": [before + now, rows]})


def once(say: Say) -> Say:
    """Says each note once, however often the folder is looked at."""
    said = set[str]()

    def speak(message: dict[str, Any]) -> None:
        note = message.get("note")
        if note is None or note not in said:
            said.update([] if note is None else [note])
            say(message)

    return speak


def tell(notes: list[str], say: Say) -> None:
    """Say what a store has noted, and forget it."""
    told, notes[:] = list(notes), []
    for text in told:
        say({"note": text})
