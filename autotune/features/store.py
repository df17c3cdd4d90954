"""The store of shared features: numbers by part, place and row, computed once and read by every trial.

It knows no models: the key says what the numbers depend on, and whoever opens the store with an equal key gets them. Several
processes may build, read and evict at once, and any of them may be killed at any byte: what is there is whole, what is not is
computed again. Every node has a store of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from autotune.errors import StoreError
from autotune.features.eviction import Room, Usage, make_room, possible_room, usage
from autotune.features.files import Folder
from autotune.features.layout import Layout
from autotune.features.locks import alone
from autotune.features.manifests import promise
from autotune.features.marks import BUILDING_LOCK, ROOM_LOCK
from autotune.features.reader import Reader, open_reader
from autotune.features.writer import Writer


class FeatureStore:
    """The features of one key (backbone's fingerprint and code, precision, tokenised data, version of the computation) under a root
    that holds those of many.

    notes: a sentence for everything out of the ordinary: what was passed over, removed, waited for or evicted, and what
    happens instead.
    """

    def __init__(self, root: Path, folder: Folder) -> None:
        self.root = root
        self._folder = folder

    @classmethod
    def open(cls, root: Path | str, key: Mapping[str, Any], *, notes: list[str] | None = None) -> FeatureStore:
        """The store of a key; its folder is made where it is missing, and what dead writers left half-written is removed.

        key: texts, whole numbers, lists and dictionaries; kept in plain words in ``meta.json``. notes: a list to add to.

        Raises:
            StoreError: the folder cannot be made, or the platform is none that the store knows (Linux and macOS).
            ValueError: the key is no JSON.
        """
        root, told = Path(root).absolute(), [] if notes is None else notes
        if not _suits():  # pragma: no cover
            raise StoreError(
                "Features need a little-endian machine and a system with pwrite and mmap: go on without them."
            )
        try:
            folder = Folder.find(root, key, told, create=True)
        except OSError as error:
            raise StoreError(
                f"Features cannot be stored under {root}: {error}. Give another folder or go on without them."
            ) from error
        assert folder is not None
        folder.clear_leftovers()
        return cls(root, folder)

    @classmethod
    def find(cls, root: Path | str, key: Mapping[str, Any], *, notes: list[str] | None = None) -> FeatureStore | None:
        """The store of a key if it is there: writes nothing and removes nothing, as a trial wants it.

        Raises:
            ValueError: the key is no JSON.
        """
        root = Path(root).absolute()
        try:
            folder = Folder.find(root, key, [] if notes is None else notes, create=False)
        except OSError:
            return None
        return None if folder is None or not _suits() else cls(root, folder)

    @property
    def folder(self) -> Path:
        """Where this key's files lie."""
        return self._folder.path

    @property
    def notes(self) -> list[str]:
        """What was out of the ordinary so far."""
        return self._folder.notes

    def has(self, part: str, place: tuple[str, int]) -> bool:
        """Whether a whole file is there, judged by its manifest and size; :meth:`reader` judges by the values too."""
        return self._folder.manifest(part, place) is not None

    def path(self, part: str, place: tuple[str, int]) -> Path | None:
        """Where the values of a whole file lie; None where there is none."""
        found = self._folder.manifest(part, place)
        return None if found is None else found.values

    def writer(self, part: str, layouts: Mapping[tuple[str, int], Layout]) -> Writer:
        """Write places of a part; see :class:`Writer`. What :meth:`has` says is there is not written again, so open a reader
        with ``verify=True`` first, which takes damaged files out of use.

        Raises:
            ValueError: part or places cannot be names of files.
        """
        return Writer(self._folder, part, layouts)

    def reader(self, part: str, places: Iterable[tuple[str, int]], *, verify: bool = False) -> Reader | None:
        """Open places for reading, or None where one of them is missing or damaged (:attr:`notes` say which): never an error.

        verify: compare every row's values with their checksum, and take what is damaged out of use; once a study, since it
        reads everything. Without it, sizes, manifests and row lengths are checked. A study keeps its reader open as long as
        its trials may open theirs, so that nothing they need is evicted.
        """
        return open_reader(self._folder, part, places, verify=verify)

    def hand_over(self, part: str, places: Iterable[tuple[str, int]]) -> None:
        """Keep files for another process that is about to open them: nobody evicts them until it does, or for some minutes."""
        for place in places:
            found = self._folder.manifest(part, place)
            if found is not None:
                promise(found)

    def building(self, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Be the only process that decides what this key's folder gets, and writes it; waits for another that is at work.

        say: is told before this process waits.

        Raises:
            StoreError: on entering: the folder cannot be written, or the other hangs or takes too long.
        """
        return self._alone(self.folder / BUILDING_LOCK, say)

    def room(self, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Be the only process that makes room under the root, and takes it. It is for the moment until all writers are entered,
        never for computing.

        Raises:
            StoreError: on entering, as :meth:`building`.
        """
        return self._alone(self.root / ROOM_LOCK, say)

    @contextmanager
    def _alone(self, path: Path, say: Callable[[str], None]) -> Iterator[None]:
        with ExitStack() as held:
            try:
                held.enter_context(alone(path, say, self._folder.work_seen))
            except OSError as error:
                raise StoreError(
                    f"nothing can be added to {self.root} ({error}): free some of its disk, or give a folder that can be written"
                ) from error
            yield

    def make_room(self, needed: int, budget: int) -> Room:
        """Evict what was unused longest, of all keys under the root; see :func:`autotune.features.eviction.make_room`."""
        return make_room(self.root, needed, budget, self.notes)

    def possible_room(self, budget: int) -> int:
        """What making room could provide at most; see :func:`autotune.features.eviction.possible_room`."""
        return possible_room(self.root, budget)

    def usage(self) -> Usage:
        """What the root holds, of all keys."""
        return usage(self.root)


def _suits() -> bool:
    return sys.byteorder == "little" and hasattr(os, "pwrite")
