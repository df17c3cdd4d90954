"""Writing the features of one part: rows come in any order, and a place is there when all of its rows are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autotune.features.files import Folder
from autotune.features.layout import Layout
from autotune.features.locks import alone
from autotune.features.marks import stem_of
from autotune.features.new_files import cannot_write
from autotune.features.values import ValuesFile, lengths_digest
from sherl.features import Place


class Writer:
    """Writes places of a part; use it as a context manager.

    Entering waits for whoever builds the same part as long as that is at work, then leaves out what is whole by then: :attr:`places` is what still has to
    be computed, and it may be empty. The room of all files is taken at once, so a full disk shows before anything is
    computed. Leaving without an error makes all places whole; leaving with one (an interrupt too) removes every trace. Do not
    open two for one part in one process: the second waits in vain.
    """

    def __init__(self, folder: Folder, part: str, layouts: Mapping[tuple[str, int], Layout]) -> None:
        self._folder = folder
        self._part = part
        self._layouts = {Place(*place): layout for place, layout in layouts.items()}
        for place in (*self._layouts, Place("blocks", 0)):  # also the part's name alone
            stem_of(part, place)
        self._files: dict[Place, ValuesFile] = {}
        self._held = ExitStack()

    @property
    def places(self) -> frozenset[Place]:
        """What is still to be written, known after entering."""
        return frozenset(self._files)

    def __enter__(self) -> Self:
        """Raises:
        StoreFull: there is no room; nothing is left behind.
        StoreError: the folder cannot be written, or whoever builds the same part hangs or takes too long.
        """
        needed = 0
        try:
            self._held.enter_context(
                alone(self._folder.path / f"{self._part}.lock", self._folder.note, self._folder.work_seen)
            )
            missing = {place: layout for place, layout in self._layouts.items() if not self._is_whole(place, layout)}
            needed = sum(layout.file_bytes for layout in missing.values())
            for place, layout in missing.items():
                self._files[place] = ValuesFile(self._folder, stem_of(self._part, place), layout)
                self._files[place].take_room()
        except OSError as error:
            self._abandon()
            raise cannot_write(error, self._folder.path, needed) from error
        except BaseException:
            self._abandon()
            raise
        return self

    def put(
        self, place: tuple[str, int], rows: Tensor | NDArray[np.integer[Any]] | Sequence[int], values: Tensor
    ) -> None:
        """Write some rows of a place.

        rows: their numbers in the part. values: of the layout's type, ``[rows, tokens, width]`` with each row's tokens first
        and padding behind, or ``[rows, *shape]``; on any device. A place that was whole already is passed over.

        Raises:
            ValueError: the values do not suit the layout, or there are no such rows.
            StoreFull: a disk that does not keep its promise of room is full.
            StoreError: the file cannot be written.
        """
        file = self._files.get(Place(*place))
        if file is None:
            if Place(*place) not in self._layouts:
                raise ValueError(f"{tuple(place)} is not among the places of this writer: {sorted(self._layouts)}.")
            return
        try:
            file.put(np.asarray(rows, dtype=np.int64), values)
        except OSError as error:
            raise cannot_write(error, self._folder.path, file.layout.file_bytes) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises:
        ValueError, StoreFull, StoreError: as :meth:`finish`; nothing is left then.
        """
        whole = False
        try:
            if kind is None:
                self.finish()
                whole = True
        finally:
            self._abandon(keep=whole)

    def finish(self) -> None:
        """Make all places whole, and hold them still: nobody evicts them until the writer is left. Leaving does it where it was
        not done; leaving with an error removes them nevertheless, unless somebody reads them by then.

        Raises:
            ValueError: rows are missing.
            StoreFull, StoreError: a file cannot be finished.
        """
        for place, file in self._files.items():
            file.check_all_came(place)
        try:
            for file in self._files.values():
                file.finish()
        except OSError as error:
            needed = sum(file.layout.file_bytes for file in self._files.values())
            raise cannot_write(error, self._folder.path, needed) from error

    def _is_whole(self, place: Place, layout: Layout) -> bool:
        for found in self._folder.manifests(stem_of(self._part, place)):
            own = (layout.rows, layout.shape, layout.dtype_name, lengths_digest(layout))
            if (found.rows, found.shape, found.dtype, found.lengths_digest) == own:
                return True
            self._folder.discard(found, "is of other rows, lengths or types than its key stands for now")
        return False

    def _abandon(self, *, keep: bool = False) -> None:
        """Let everything go; what is not finished is removed, and without ``keep`` what is."""
        for file in self._files.values():
            file.close(keep=keep)
        self._held.close()
