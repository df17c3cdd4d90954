"""Entities in tagged words: which words a run of B-, I-, E- and S- tags takes together."""

from __future__ import annotations

from collections.abc import Sequence

BREAK = ""
"""Stands between sentences in a row of tags; no entity goes across it."""

OUTSIDE = "O"


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """(first word, word behind the last, type) of each entity, as the CoNLL shared tasks counted them.

    IOB2 (``B-PER I-PER``), IOB1 (``I-PER I-PER``, B- only between neighbours of one type) and IOBES are read by one rule:
    an entity begins at B- and S-, and at any other tag whose type the word before does not carry; it ends behind E- and
    S-, and where the next word is outside, begins one or is of another type. A tag without prefix is a type of its own.
    """
    found: set[tuple[int, int, str]] = set()
    begin, open_type, closed = 0, "", True
    for place, tag in enumerate([*tags, BREAK]):
        prefix, kind = _parts(tag)
        goes_on = bool(kind) and not closed and kind == open_type and prefix not in ("B", "S")
        if not goes_on:
            if open_type:
                found.add((begin, place, open_type))
            begin, open_type = place, kind
        closed = prefix in ("E", "S")
    return found


def has_prefixes(tags: Sequence[str]) -> bool:
    """Whether tags mark entities: each is O or has a prefix, and at least one has."""
    marked = [tag for tag in tags if tag not in (OUTSIDE, BREAK)]
    return bool(marked) and all(_parts(tag)[0] for tag in marked)


def _parts(tag: str) -> tuple[str, str]:
    """Prefix and type; no type for words outside and between sentences."""
    if tag in (OUTSIDE, BREAK):
        return "", ""
    prefix, mark, kind = tag.partition("-")
    return (prefix, kind) if mark and kind and prefix in ("B", "I", "E", "S") else ("", tag)
