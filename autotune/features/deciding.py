"""What a study stores on this machine: its speeds and the store's room are measured, and the rule is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autotune.features.errand import Wanted
from autotune.features.marks import PARTS
from autotune.features.rule import Decision, Group, Speeds, decide, described
from autotune.features.speeds import SAMPLE_BYTES, disk_speeds, forward_seconds, read_speed
from autotune.features.store import FeatureStore
from sherl.backbones import Backbone
from sherl.data import PreparedData
from sherl.features import Place


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a decision is made from. asked: whether it was asked to store, so that no speed was measured. problem: why nothing can
    be added, "" if it can."""

    groups: Sequence[Group]
    speeds: Speeds
    asked: bool
    problem: str


def measure_here(
    mode: str,
    wanted: Sequence[Wanted],
    backbone: Backbone,
    data: PreparedData,
    store: FeatureStore,
    sizes: Mapping[Place, int],
    present: frozenset[Place],
    problem: str,
    *,
    rows: int,
) -> Measured:
    """This machine's speeds where mode is ``auto``; else nothing is measured.

    wanted: what could be read, with all of its places in ``sizes`` (bytes of all parts). present: what lies there already,
    held open by this process. problem: why nothing can be added, as far as that is known. rows: of a pass.

    Raises:
        OSError: what lies there cannot be read.
    """
    if mode != "auto":
        free = Speeds(read=math.inf, write=math.inf, forward_seconds=0.0)
        return Measured(groups=_groups(wanted, backbone, seconds=1.0), speeds=free, asked=True, problem=problem)
    learnt = sum(len(data.part(part)) for part in ("train", "valid"))
    in_all = sum(len(data.part(part)) for part in PARTS)
    once = forward_seconds(backbone, data.part("train"), batch_size=rows) / len(data.part("train"))
    writing = not problem and not present.issuperset(sizes)
    read, write, found = _disk(store, sum(sizes.values()), present, writing=writing)
    return Measured(
        groups=_groups(wanted, backbone, seconds=once * learnt),
        speeds=Speeds(read=read, write=write, forward_seconds=once * in_all),
        asked=False,
        problem=problem or found,
    )


def choose(measured: Measured, sizes: Mapping[Place, int], room: int, present: frozenset[Place]) -> Decision:
    """What is stored: by the measured speeds, or as far as there is room where it was asked for.

    room: bytes that may be written.
    """
    room = 0 if measured.problem else room
    made = decide(measured.groups, sizes, measured.speeds, room, present)
    if measured.asked and made.verdict != "none":
        reason = f"{described(made.places, sizes)}, as was asked for{made.left_out and '; ' + made.left_out}"
        made = replace(made, gain_seconds=0.0, reason=reason)
    if not measured.problem:
        return made
    return replace(made, reason=measured.problem if made.verdict == "none" else f"{made.reason}; {measured.problem}")


def _groups(wanted: Sequence[Wanted], backbone: Backbone, *, seconds: float) -> list[Group]:
    """seconds: of one pass of the whole backbone over what a trial learns from and is evaluated on."""
    return [
        Group(
            places=frozenset(one.places),
            passes=one.passes,
            saved_seconds=seconds * _share(backbone, one.places),
        )
        for one in wanted
    ]


def _disk(store: FeatureStore, total: int, present: frozenset[Place], *, writing: bool) -> tuple[float, float, str]:
    """Bytes a second read and written; and why nothing can be written, if that is so. writing: whether anything is to be; else
    nothing is written to find out."""
    problem = ""
    if writing:
        try:
            # of a full disk the file that is measured with needs room too; the budget is not about it
            store.make_room(SAMPLE_BYTES, store.usage().bytes + SAMPLE_BYTES)
            return *disk_speeds(store.root, total), ""
        except OSError as error:
            problem = f"nothing can be added to {store.root} ({error}): free some of its disk, or give a folder that can be written"
    files = [path for place in present for part in PARTS if (path := store.path(part, place)) is not None]
    largest = max(files, key=lambda path: path.stat().st_size, default=None)
    return (math.inf if largest is None else read_speed(largest, total)), math.inf, problem


def _share(backbone: Backbone, places: tuple[Place, ...]) -> float:
    """Of the backbone's blocks, those that do not run where these places are read."""
    spans = backbone.stacks
    return sum(max((one.n for one in places if one.stack == name), default=0) for name in spans) / backbone.depth
