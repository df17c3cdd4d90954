"""Collects all problems of a source, so that a person sees them at once and not one a run."""

from __future__ import annotations

from typing import Any

from sherl.errors import DataError

SHOWN = 20
"""Problems that a message spells out; the rest are counted."""


class Problems:
    """Problems found so far; :meth:`raise_any` ends the reading if there is one."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        """Notes a problem in words."""
        self.found.append(problem)

    def add_cell(self, place: str, column: str, given: Any, allowed: str) -> None:
        """Notes a problem of one cell; place names file and row."""
        self.add(f"{place}, column {column!r}: {shorten(given)} was given; {allowed}")

    def raise_any(self, advice: str = "") -> None:
        """Raises:
        DataError: there are problems.
        """
        if self.found:
            raise self.error(advice)

    def error(self, advice: str = "") -> DataError:
        """One error of all problems: ``problems`` holds each, the message the first ones and a count of the rest."""
        count = len(self.found)
        head = f"{self.where}: {count} problem{'' if count == 1 else 's'}"
        rest = [f"  - and {count - SHOWN} more"] if count > SHOWN else []
        body = [f"  - {problem}" for problem in self.found[:SHOWN]]
        error = DataError("\n".join([head, *body, *rest, *([advice] if advice else [])]))
        error.problems, error.where = list(self.found), self.where
        return error


def shorten(given: Any, limit: int = 60) -> str:
    """The value as a message shows it: its repr, cut where it is long; "nothing" for None."""
    if given is None:
        return "nothing"
    shown = repr(given)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def listing(names: Any, limit: int = 20) -> str:
    """Names for a message, comma-separated, the rest of many counted."""
    shown = [repr(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more
