"""What lies in a store already and suits the data: compared once, and held open so that nothing of it goes meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from autotune.errors import StoreError
from autotune.features.layout import Layout
from autotune.features.marks import PARTS
from autotune.features.reader import Reader
from autotune.features.store import FeatureStore
from sherl.features import Place

Layouts: TypeAlias = Mapping[str, Mapping[Place, Layout]]
"""By part and place, how rows lie."""


class Held:
    """Files of a store that this process holds open: by part, which places. Use it as a context manager."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._open: dict[tuple[str, Place], Reader] = {}
        self.lost: dict[Place, str] = {}
        """What can neither be read nor stored anew, with the reason."""

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *error: object) -> None:
        for reader in self._open.values():
            reader.close()
        self._open.clear()

    def whole(self) -> frozenset[Place]:
        """Places that are held of all parts."""
        places = {place for _, place in self._open}
        return frozenset(place for place in places if all((part, place) in self._open for part in PARTS))

    def has(self, part: str, place: Place) -> bool:
        """Whether this part's file is held."""
        return (part, place) in self._open

    def look(self, layouts: Layouts) -> None:
        """Open what lies there of these places and is not held yet. Every value is compared with its checksum, once a study: what
        was damaged since is found here, and taken out of use; what is of rows of other lengths is passed over."""
        for part in PARTS:
            for place, layout in sorted(layouts[part].items()):
                if not self.has(part, place) and self._store.has(part, place):
                    self._verify(part, place, layout)

    def _verify(self, part: str, place: Place, layout: Layout) -> None:
        store = self._store
        verified = store.reader(part, [place], verify=True)
        if verified is None:
            if store.has(part, place):
                self.lost[place] = store.notes[-1]
            return
        with verified:  # opened again: the pages that were just read are let go with the first
            again = store.reader(part, [place]) if verified.layout(place).same_rows(layout) else None
        if again is not None:
            self._open[part, place] = again

    def take(self, part: str, places: Iterable[Place]) -> None:
        """Open what was just written.

        Raises:
            StoreError: it cannot be read.
        """
        for place in places:
            if not self.has(part, place):
                reader = self._store.reader(part, [place])
                if reader is None:
                    raise StoreError(f"What was just stored cannot be read: {self._store.notes[-1]}")
                self._open[part, place] = reader

    def hand_over(self, places: Iterable[Place]) -> None:
        """Keep files until another process has opened them, beyond this one's end."""
        for part in PARTS:
            self._store.hand_over(part, places)
