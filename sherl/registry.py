"""Named entries that code inside and outside the project adds by being imported; there is no closed list."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from sherl.errors import SpecError, UnknownNameError

Entry = TypeVar("Entry")


def nearest(name: object, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known name nearest to a wrong one, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


class Registry(Generic[Entry]):
    """A mapping from names to entries of one sort (``what``: "method", "backbone family", ...)."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._entries: dict[str, Entry] = {}

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator that adds an entry.

        Raises:
            SpecError: another entry has this name.
        """

        def add(entry: Entry) -> Entry:
            if name in self._entries and self._entries[name] is not entry:
                raise SpecError(f"Two entries want to be the {self.what} {name!r}: give one of them another name.")
            self._entries[name] = entry
            return entry

        return add

    def get(self, name: str) -> Entry:
        """The entry of this name.

        Raises:
            UnknownNameError: no entry has it; the message names the nearest and all known ones.
        """
        if name in self._entries:
            return self._entries[name]
        raise UnknownNameError(f"Unknown {self.what} {name!r}.{nearest(name, self)} Known are: {', '.join(self)}.")

    def names(self) -> tuple[str, ...]:
        """All known names, sorted."""
        return tuple(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
