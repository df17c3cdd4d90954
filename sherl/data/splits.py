"""Which rows are for training, validation and test: decided by text, so that no text stands in two parts."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from sherl.data.encoded import Text

Key: TypeAlias = tuple[str, ...]

FRACTIONS = {"train": 0.70, "valid": 0.15, "test": 0.15}
"""Shares of the parts where no sizes are given."""

MIN_ROWS = 2
"""Fewer rows than this make no part: nothing can be compared."""


def text_key(text: Text) -> Key:
    """What makes two rows the same text: letters without case, width and blanks; a pair in either order."""
    if isinstance(text, str):
        return (_normalised(text),)
    return tuple(sorted(_normalised(one) for one in text))


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def part_sizes(rows: int, parts: Sequence[str], wanted: dict[str, int | None]) -> dict[str, int]:
    """Rows for each of ``parts``: sizes that are wanted as they are, valid and test else by :data:`FRACTIONS`, train
    else the rest.

    Where there are too few rows for all that is wanted, the wanted sizes shrink alike.
    """
    fixed = {part: size for part in parts if (size := wanted.get(part)) is not None}
    free = [part for part in parts if part not in fixed]
    of_free = sum(FRACTIONS[part] for part in free)
    room = rows - sum(fixed.values())
    if fixed and room < MIN_ROWS * len(free):
        fair = (1 - of_free / sum(FRACTIONS[part] for part in parts)) * rows
        most = min(fair, max(0, rows - MIN_ROWS * len(free)))
        scale = min(1.0, most / sum(fixed.values()))
        fixed = {part: int(size * scale) for part, size in fixed.items()}
        room = rows - sum(fixed.values())
    for part in free:
        if part != "train":
            share = min(FRACTIONS[part] * rows, FRACTIONS[part] / of_free * room)
            left = rows - sum(fixed.values())  # rounding up twice may want a row more than there is
            fixed[part] = max(MIN_ROWS, min(left, int(share + 0.5)))
    if "train" in free:
        fixed["train"] = max(0, rows - sum(fixed.values()))
    return {part: fixed[part] for part in parts}


def split_rows(
    keys: Sequence[Key], strata: Sequence[str] | None, sizes: dict[str, int], *, seed: int
) -> dict[str, list[int]]:
    """Rows of each part, in row order: about ``sizes``, classes in about the same shares in all parts.

    Rows of one key stay together: where they do not fit a part they go to the next; where they fit none they are left
    out, or join the first part if all rows are to be used. Every class's first text goes to the first part. The choice depends on seed and texts only, not on the
    order of the rows.
    """
    groups: dict[Key, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        groups[key].append(row)
    chosen: dict[str, list[int]] = {part: [] for part in sizes}
    rest = next(iter(sizes)) if sum(sizes.values()) >= len(keys) else None
    for key in _interleaved(groups, strata, seed):
        members = groups[key]
        part = next((part for part, size in sizes.items() if len(chosen[part]) + len(members) <= size), rest)
        if part is not None:
            chosen[part] += members
    return {part: sorted(rows) for part, rows in chosen.items()}


def _interleaved(groups: dict[Key, list[int]], strata: Sequence[str] | None, seed: int) -> list[Key]:
    """Keys in a drawn order of which every stretch holds the classes in about their shares."""
    drawn = {key: _draw(key, seed) for key in groups}
    of_class: dict[str | None, list[Key]] = defaultdict(list)
    for key, rows in groups.items():
        of_class[None if strata is None else min(strata[row] for row in rows)].append(key)
    position: dict[Key, float] = {}
    for members in of_class.values():
        for place, key in enumerate(sorted(members, key=drawn.__getitem__)):
            position[key] = place / len(members)
    return sorted(groups, key=lambda key: (position[key], drawn[key]))


def _draw(key: Key, seed: int) -> bytes:
    return hashlib.sha256("\0".join((str(seed), *key)).encode("utf-8", errors="surrogatepass")).digest()
