"""Whether a study stores hidden states, and which: only what saves more time than it costs, within the disk's room.

Everything is counted over the whole study. A *group* is all the trials that need the same hidden states; what it saves in
one pass over the data is the frozen computation of that pass less the reading of what takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from autotune.units import count_words, format_bytes, format_duration
from sherl.features import Place


@dataclass(frozen=True, kw_only=True)
class Group:
    """Trials that need the same hidden states.

    places: these. passes: how often all of them together are expected to go over the data. saved_seconds: of frozen
    computation in one pass that is not done where the places are read.
    """

    places: frozenset[Place]
    passes: float
    saved_seconds: float


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What was measured on this machine.

    read, write: bytes a second of the store. forward_seconds: of one pass of the frozen backbone over the data, as far as
    a store of all places needs it.
    """

    read: float
    write: float
    forward_seconds: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What is stored. gain_seconds: what the study saves by it, building deducted; an estimate, 0.0 where nothing was measured.
    reason: in words. left_out: of it, what was not taken and why, "" of all and of none. slower: what groups need that would read
    longer than they compute, and so do not read, though others have had it stored."""

    verdict: Literal["all", "some", "none"]
    places: frozenset[Place]
    gain_seconds: float
    reason: str
    left_out: str = ""
    slower: frozenset[frozenset[Place]] = frozenset()


def decide(
    groups: Sequence[Group],
    sizes: Mapping[Place, int],
    speeds: Speeds,
    room: int,
    present: frozenset[Place] = frozenset(),
) -> Decision:
    """Groups are taken in the order of seconds that they save for each byte they add, as long as there is room.

    Args:
        groups: that could read; empty where no method of the space can.
        sizes: bytes of each place, of all parts.
        speeds: of this machine.
        room: bytes that may be written; below 0 (the budget is smaller than what lies there) as 0.
        present: what lies in the store already; it costs nothing more.
    """
    room = max(room, 0)
    if not groups:
        return _none("no method of the space has frozen early layers that could be stored")
    worth = [group for group in groups if _gain(group, sizes, speeds) > 0]
    if not worth:
        best = max(groups, key=lambda group: group.saved_seconds)
        return _none(
            f"a pass over the stored hidden states would take {format_duration(_read_seconds(best, sizes, speeds))}, computing "
            f"them {format_duration(best.saved_seconds)}"
        )
    chosen: list[Group] = []
    places: frozenset[Place] = frozenset()
    left = list(worth)
    while left:
        left.sort(key=lambda group: _gain(group, sizes, speeds) / (1 + _bytes(group.places - places - present, sizes)))
        group = left.pop()
        if _bytes((places | group.places) - present, sizes) <= room:
            chosen.append(group)
            places |= group.places
    if not chosen:
        needed = min(_bytes(group.places - present, sizes) for group in worth)
        return _none(
            f"the least that could be stored takes {format_bytes(needed)}, and there is room for {format_bytes(room)}"
        )
    added = _bytes(places - present, sizes)
    cost = (speeds.forward_seconds + added / speeds.write) if added else 0.0
    gain = sum(_gain(group, sizes, speeds) for group in chosen) - cost
    if gain <= 0:
        return _none(
            f"storing them takes {format_duration(cost)}, and all trials together would save {format_duration(gain + cost)}"
        )
    all_of_them = len(chosen) == len(groups)
    left_out = "" if all_of_them else _why_some(groups, chosen, sizes, speeds, room)
    return Decision(
        verdict="all" if all_of_them else "some",
        places=places,
        gain_seconds=gain,
        reason=f"{described(places, sizes)}: about {format_duration(gain)} of the study's "
        f"computing are saved, the {format_duration(cost)} of storing deducted{left_out and '; ' + left_out}",
        left_out=left_out,
        slower=frozenset(group.places for group in groups if _gain(group, sizes, speeds) <= 0),
    )


def described(places: frozenset[Place], sizes: Mapping[Place, int]) -> str:
    """How many and how large, in words."""
    return f"{count_words(len(places), 'hidden state')}, {format_bytes(_bytes(places, sizes))}"


def _none(reason: str) -> Decision:
    return Decision(verdict="none", places=frozenset(), gain_seconds=0.0, reason=reason)


def _why_some(
    groups: Sequence[Group], chosen: Sequence[Group], sizes: Mapping[Place, int], speeds: Speeds, room: int
) -> str:
    slower = sum(_gain(group, sizes, speeds) <= 0 for group in groups)
    too_large = len(groups) - len(chosen) - slower
    reasons = []
    if too_large:
        reasons.append(f"{too_large} of {len(groups)} sorts of trials need more than the room of {format_bytes(room)}")
    if slower:
        reasons.append(f"{slower} of {len(groups)} would read longer than they compute")
    return " and ".join(reasons)


def _bytes(places: frozenset[Place], sizes: Mapping[Place, int]) -> int:
    return sum(sizes[place] for place in places)


def _read_seconds(group: Group, sizes: Mapping[Place, int], speeds: Speeds) -> float:
    return _bytes(group.places, sizes) / speeds.read


def _gain(group: Group, sizes: Mapping[Place, int], speeds: Speeds) -> float:
    return group.passes * (group.saved_seconds - _read_seconds(group, sizes, speeds))
