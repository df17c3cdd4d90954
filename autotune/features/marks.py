"""Names of files that say who wrote them: ``train.blocks.3.<pid>-<start>-<number>.bin``.

Every file has a name of its own that never comes again, so nothing is ever written over. Pid and start time together
name the writer, so that what a dead one left half-written can be told from what a living one is writing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from uuid import uuid4

from autotune.processes import started

PARTS = ("train", "valid", "test")
VALUES, MANIFEST, SCRATCH = ".bin", ".json", ".tmp"
BUILDING_LOCK, ROOM_LOCK = "building.lock", "room.lock"
"""In a key's folder, held by whoever fills it; in the root, by whoever takes room there."""
_NAME = re.compile(
    r"(?P<stem>[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\.(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}(?P<kind>\.bin|\.json|\.tmp)"
)
_WORD = re.compile(r"[A-Za-z0-9_-]+")


def folder_names(digest: str) -> Iterator[str]:
    """Where in the root a key's files lie: the first of these names that nothing else has taken."""
    yield digest
    yield from (f"{digest}-{number}" for number in range(2, 9))


def stem_of(part: str, place: tuple[str, int]) -> str:
    """The part of a name that says what is in a file, e.g. ``train.blocks.3``.

    Raises:
        ValueError: part or stack are no plain words, or the number is below 0.
    """
    stack, n = place
    if not _WORD.fullmatch(part) or not _WORD.fullmatch(stack) or n < 0:
        raise ValueError(
            f"Features are named by part and stack (letters, digits, - and _) and a number of at least 0; "
            f"{part!r}, {stack!r} and {n!r} were given."
        )
    return f"{part}.{stack}.{int(n)}"


def new_name(stem: str) -> str:
    """A name, without ending, that no other writer chooses."""
    return f"{stem}.{os.getpid()}-{_own_start(os.getpid())}-{uuid4().hex[:8]}"


def parse(name: str) -> tuple[str, str] | None:
    """Stem and ending of a file's name; None where it is not of this form."""
    match = _NAME.fullmatch(name)
    return None if match is None else (match["stem"], match["kind"])


def writer_lives(name: str) -> bool:
    """Whether the process that chose this name is still there. Of another machine's or container's writer nothing is
    known: it seems dead, and only its lock on the file tells otherwise."""
    match = _NAME.fullmatch(name)
    if match is None:
        return True  # not of this form: somebody else's
    return _start_number(int(match["pid"])) == int(match["start"])


def _start_number(pid: int) -> int:
    start = started(pid)
    return -1 if start is None else round(start * 100)


@cache
def _own_start(pid: int) -> int:
    return max(_start_number(pid), 0)  # a platform that does not say gives 0, and the writer seems dead from the start
