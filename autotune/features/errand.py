"""What the process that fills a store is told, and what it answers, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from sherl.features import Place

BATCH_ROWS = 32
"""Rows of a frozen pass, measured or stored, where the cap has room for so many."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A sort of trials: the places that they need, and how often all of them together will go over the data."""

    places: tuple[Place, ...]
    passes: float


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What is to be stored. mode: ``auto`` as far as it pays, ``on`` as far as there is room. budget: bytes that the store may
    hold in all; None: half of what the disk has free beside it. allocator_bytes: of a GPU, what torch's allocator may
    hold there; None: no bound. rows: of a pass, at most."""

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
    rows: int = BATCH_ROWS

    def to_json(self) -> str:
        """One line; :meth:`from_json` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` wrote."""
        plain = json.loads(text)
        wanted = tuple(Wanted(places=_places(one["places"]), passes=one["passes"]) for one in plain.pop("wanted"))
        return cls(**{**plain, "wanted": wanted, "plugins": tuple(plain["plugins"])})


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What came of it. places: that lie in the store whole, of all parts. bytes: of them. seconds: that all of it took.
    reason: in words. slower: what sorts of trials need that are quicker without, by the speeds measured."""

    key: dict[str, Any]
    verdict: str
    places: tuple[Place, ...]
    bytes: int
    seconds: float
    reason: str
    slower: tuple[tuple[Place, ...], ...] = ()

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` made."""
        slower = tuple(_places(one) for one in plain.get("slower", ()))
        return cls(**{**plain, "places": _places(plain["places"]), "slower": slower})


def _places(plain: Iterable[tuple[str, int]]) -> tuple[Place, ...]:
    return tuple(Place(stack, n) for stack, n in plain)
