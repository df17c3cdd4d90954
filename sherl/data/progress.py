"""How far the preparation of data is, told to whoever wants to show it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Hears what is being done, in words, and how many of how many are."""


def untold(what: str, done: int, total: int) -> None:
    """A :data:`Progress` for where nobody looks."""


def counted(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    """To be called with how many more are done; passes on how many are by now."""
    done = 0

    def further(number: int) -> None:
        nonlocal done
        done += number
        progress(what, done, total)

    return further
