"""The process that fills a store: it loads the backbone, measures, decides, computes, and ends, so that nothing of it stays.

It reads one JSON object (:class:`Errand`) from its standard input and writes JSON lines to its standard output: ``{"note":
...}``, ``{"rows": [done, all]}`` and at last ``{"stored": {...}}`` (:class:`Stored`).
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch

from autotune.errors import AutotuneError
from autotune.features.build import build, row_layouts
from autotune.features.layout import Layout
from autotune.features.rule import Decision, Group, Speeds, decide, described
from autotune.features.shared import PARTS, store_key
from autotune.features.speeds import disk_speeds, forward_seconds
from autotune.features.store import FeatureStore
from autotune.features.writer import free_bytes
from sherl.backbones import Backbone, load_backbone
from sherl.data import PreparedData
from sherl.errors import SherlError
from sherl.features import Place
from sherl.precision import weights_dtype

BATCH_SIZE = 32
SHARE_OF_DISK = 0.5
"""Of the disk's free room, what a store takes unless it is given a budget."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A sort of trials: the places that they need, and how often all of them together will go over the data."""

    places: tuple[Place, ...]
    passes: float


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What is to be stored. mode: ``auto`` as far as it pays, ``on`` as far as there is room. budget: bytes that the store may
    hold in all; None: half of what the disk has free beside it. allocator_bytes: of a GPU, what torch's allocator may
    hold there; None: no bound."""

    source: str
    prepared: str
    root: str
    precision: Literal["fp32", "bf16"]
    device: str
    threads: int
    mode: str
    wanted: tuple[Wanted, ...]
    budget: int | None = None
    allocator_bytes: int | None = None
    plugins: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line; :meth:`from_json` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` wrote."""
        plain = json.loads(text)
        wanted = tuple(
            Wanted(places=tuple(Place(stack, n) for stack, n in one["places"]), passes=one["passes"])
            for one in plain.pop("wanted")
        )
        return cls(**{**plain, "wanted": wanted, "plugins": tuple(plain["plugins"])})


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What came of it. places: that lie in the store whole, of all parts. bytes: of them. seconds: that all of it took.
    reason: in words."""

    key: dict[str, Any]
    verdict: str
    places: tuple[Place, ...]
    bytes: int
    seconds: float
    reason: str

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made."""
        return cls(**{**plain, "places": tuple(Place(stack, n) for stack, n in plain["places"])})


def fill(errand: Errand, say: Callable[[dict[str, Any]], None]) -> Stored:
    """Measure, decide and store.

    Raises:
        StoreError, StoreFull: the folder cannot be written, or the disk is full.
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
    key = store_key(backbone.fingerprint, errand.precision, data, errand.device)
    root, notes = Path(errand.root), list[str]()
    store = FeatureStore.open(root, key, notes=notes)
    union = frozenset(place for one in errand.wanted for place in one.places)
    present = frozenset(place for place in union if all(store.has(part, place) for part in PARTS))
    if present:  # once a study: what was damaged since is found now, and stored anew
        for part in PARTS:
            for place in sorted(present):
                reader = store.reader(part, [place], verify=True)
                present -= {place} if reader is None else frozenset()
                if reader is not None:
                    reader.close()
    layouts = _layouts(backbone, data, union)
    sizes = {place: sum(layouts[part][place].file_bytes for part in PARTS) for place in union}
    decision = _decide(errand, backbone, data, store, sizes, present)
    for text in _flushed(notes):
        say({"note": text})
    missing = decision.places - present
    if missing:
        needed = sum(sizes[place] for place in missing)
        room = store.make_room(needed, _budget(errand, store))
        if not room.enough:
            return Stored(key=key, verdict="none", places=(), bytes=0, seconds=0.0, reason=notes[-1])
        rows = sum(len(data.part(part)) for part in PARTS)
        done = 0
        for part in PARTS:
            with store.writer(part, {place: layouts[part][place] for place in sorted(missing)}) as writer:
                build(
                    backbone,
                    data.part(part),
                    writer,
                    batch_size=BATCH_SIZE,
                    on_batch=partial(_progress, say, before=done, rows=rows),
                )
            done += len(data.part(part))
    for text in _flushed(notes):
        say({"note": text})
    return Stored(
        key=key,
        verdict=decision.verdict,
        places=tuple(sorted(decision.places)),
        bytes=sum(sizes[place] for place in decision.places),
        seconds=time.perf_counter() - began,
        reason=decision.reason,
    )


def _progress(say: Callable[[dict[str, Any]], None], now: int, *, before: int, rows: int) -> None:
    say({"rows": [before + now, rows]})


def _layouts(backbone: Backbone, data: PreparedData, places: frozenset[Place]) -> dict[str, dict[Place, Layout]]:
    return {part: row_layouts(backbone, data.part(part), places) for part in PARTS}


def _decide(
    errand: Errand,
    backbone: Backbone,
    data: PreparedData,
    store: FeatureStore,
    sizes: Mapping[Place, int],
    present: frozenset[Place],
) -> Decision:
    total, here = sum(sizes.values()), sum(sizes[place] for place in present)
    # what was unused longest can go for what is needed now
    room = min(_budget(errand, store), store.usage().bytes + free_bytes(store.root)) - here
    learnt = sum(len(data.part(part)) for part in ("train", "valid"))
    in_all = sum(len(data.part(part)) for part in PARTS)
    once = forward_seconds(backbone, data.part("train"), batch_size=BATCH_SIZE) / len(data.part("train"))
    read, write = disk_speeds(store.root, total)
    groups = [
        Group(
            places=frozenset(one.places),
            passes=one.passes,
            saved_seconds=once * learnt * _share(backbone, one.places),
        )
        for one in errand.wanted
    ]
    speeds = Speeds(read=read, write=write, forward_seconds=once * in_all)
    if errand.mode == "auto":
        return decide(groups, sizes, speeds, room, present)
    made = decide(groups, sizes, Speeds(read=float("inf"), write=float("inf"), forward_seconds=0.0), room, present)
    if made.verdict == "none":
        return made
    return Decision(
        verdict=made.verdict,
        places=made.places,
        gain_seconds=made.gain_seconds,
        reason=f"{described(made.places, sizes)}, as was asked for",
    )


def _share(backbone: Backbone, places: tuple[Place, ...]) -> float:
    """Of the backbone's blocks, those that do not run where these places are read."""
    spans = backbone.stacks
    return sum(max((one.n for one in places if one.stack == name), default=0) for name in spans) / backbone.depth


def _budget(errand: Errand, store: FeatureStore) -> int:
    return (
        store.usage().bytes + round(SHARE_OF_DISK * free_bytes(store.root)) if errand.budget is None else errand.budget
    )


def _flushed(notes: list[str]) -> list[str]:
    told, notes[:] = list(notes), []
    return told


def main() -> None:
    """Reads an errand, does it, and tells; exit code 1 with one line on standard error where it could not be done."""
    errand = Errand.from_json(sys.stdin.readline())
    channel = sys.stdout
    sys.stdout = sys.stderr  # whatever libraries print is none of the messages

    def say(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        for plugin in errand.plugins:
            importlib.import_module(plugin)
        say({"stored": asdict(fill(errand, say))})
    except (AutotuneError, SherlError, OSError, RuntimeError, MemoryError) as error:
        lines = str(error).strip().splitlines()
        sys.stderr.write(f"{type(error).__name__}: {lines[0] if lines else 'no message'}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
