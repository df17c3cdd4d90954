"""Files of a store, brought to another machine as they are: one process gives, another takes, and how the bytes travel is neither's
business. Nothing here brings torch along.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from autotune.errors import StoreError, StoreFull
from autotune.features.eviction import budget_of, make_room
from autotune.features.files import Folder
from autotune.features.locks import alone
from autotune.features.manifests import manifest_of, promise, read_json
from autotune.features.marks import BUILDING_LOCK, PARTS, ROOM_LOCK, stem_of
from autotune.features.new_files import NewFile, cannot_write
from autotune.features.wholeness import damaged_row, has_its_index, open_values
from sherl.features import Place


class Source(Protocol):
    """Where files come from."""

    def manifests(self) -> dict[str, dict[str, Any]]:
        """What each file's manifest holds, by its stem (part and place)."""
        ...

    def chunks(self, stem: str, size: int) -> Iterator[memoryview]:
        """The bytes of a file of this size, from the first to the last."""
        ...


class Giver:
    """The files of some places, held open, so that nobody evicts them while they are read.

    Raises:
        StoreError: one of them is not there, or not whole.
    """

    def __init__(self, root: str, key: Mapping[str, Any], places: Iterable[tuple[str, int]]) -> None:
        notes: list[str] = []
        folder = Folder.find(Path(root), key, notes, create=False)
        self._manifests: dict[str, dict[str, Any]] = {}
        self._held = ExitStack()
        self._open: dict[str, int] = {}
        with ExitStack() as undone:
            undone.callback(self._held.close)
            for stem in stems_of(places):
                manifest = None if folder is None else next(folder.manifests(stem), None)
                opened = "is not there" if manifest is None else open_values(manifest)
                if isinstance(opened, str) or manifest is None:
                    raise StoreError(" ".join([f"{stem} of the store {root} {opened}.", *notes]))
                self._held.callback(os.close, opened)
                self._open[stem] = opened
                content = read_json(manifest.path)
                if isinstance(content, str):
                    raise StoreError(f"{manifest.path} {content}.")
                self._manifests[stem] = content
            undone.pop_all()

    def manifests(self) -> dict[str, dict[str, Any]]:
        """As :meth:`Source.manifests`."""
        return self._manifests

    def read(self, stem: str, offset: int, size: int) -> bytes:
        """Bytes of a file; fewer at its end.

        Raises:
            OSError: it cannot be read.
        """
        return os.pread(self._open[stem], size, offset)

    def close(self) -> None:
        """Let the files go."""
        self._held.close()
        self._open.clear()


def take(
    root: str,
    key: Mapping[str, Any],
    places: Iterable[tuple[str, int]],
    source: Callable[[], Source],
    *,
    budget: int | None = None,
    going_on: Callable[[], None] = lambda: None,
) -> None:
    """Have what of these places is missing here brought from a source, every value compared with its checksum.

    Whoever copies or builds the same on this machine is waited for, and what that has brought is not brought again. The room of
    all files is taken first. They are kept for some minutes, for whoever opens them next.

    source: is called where anything is missing. budget: bytes that the whole store may hold here; None: half of what the disk has
    free beside it. going_on: called often; what it raises ends the copying, and of what is not whole nothing is left.

    Raises:
        StoreFull: there is no room. StoreError: it cannot be written, or what came is not what was sent.
    """
    path = Path(root)
    try:
        folder = Folder.find(path, key, [], create=True)
    except OSError as error:
        raise cannot_write(error, path, 0) from error
    assert folder is not None

    def sign() -> object:
        going_on()
        return folder.work_seen()

    with ExitStack() as held:
        try:
            held.enter_context(alone(folder.path / BUILDING_LOCK, folder.note, sign))
            folder.clear_leftovers()
            missing = [stem for stem in stems_of(places) if next(folder.manifests(stem), None) is None]
            if missing:
                _bring(folder, path, missing, source(), budget, going_on, sign)
        except OSError as error:
            raise cannot_write(error, path, 0) from error
        for stem in stems_of(places):
            for manifest in folder.manifests(stem):
                promise(manifest)


def stems_of(places: Iterable[tuple[str, int]]) -> list[str]:
    """Names of the files of all parts."""
    return [stem_of(part, Place(*place)) for part in PARTS for place in places]


def _bring(
    folder: Folder,
    root: Path,
    missing: list[str],
    source: Source,
    budget: int | None,
    going_on: Callable[[], None],
    sign: Callable[[], object],
) -> None:
    offered = source.manifests()
    sizes = {stem: int(offered[stem]["file_bytes"]) for stem in missing}
    files: dict[str, NewFile] = {}
    with ExitStack() as held:
        with ExitStack() as first:
            first.enter_context(alone(root / ROOM_LOCK, folder.note, sign))
            needed = sum(sizes.values())
            room = make_room(root, needed, budget_of(budget, root), folder.notes)
            if not room.enough:
                raise StoreFull(folder.notes.pop(), needed=needed, free=room.free)
            try:
                for stem, size in sizes.items():
                    files[stem] = NewFile(folder, stem)
                    held.callback(files[stem].close, keep=True)  # what is whole stays, whatever becomes of the others
                    files[stem].take_room(size)
            except OSError as error:
                raise cannot_write(error, root, needed) from error
        for stem, size in sizes.items():
            offset = 0
            for chunk in source.chunks(stem, size):
                going_on()
                files[stem].write(chunk, offset)
                offset += len(chunk)
            wrong = _damage(files[stem], offered[stem], folder.digest)
            if wrong:
                raise StoreError(f"What came of {stem} is not what was sent: {wrong}.")
            files[stem].finish(offered[stem])


def _damage(file: NewFile, content: Mapping[str, Any], digest: str) -> str:
    """What is wrong with a file that came, by what its manifest says; "" where nothing is."""
    manifest = manifest_of(content, file.manifest_path, digest)
    if isinstance(manifest, str):
        return manifest
    if not manifest.file_bytes:
        return ""
    with mmap.mmap(file.descriptor, 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as seen:
        if not has_its_index(manifest, seen):
            return "its index is damaged"
        row = damaged_row(manifest, seen)
    return "" if row is None else f"its row {row} is damaged"
