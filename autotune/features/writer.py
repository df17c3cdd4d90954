"""Writing the features of one part: rows come in any order, and a place is there when all of its rows are."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from autotune.errors import StoreError, StoreFull
from autotune.features.files import Folder, write_all
from autotune.features.layout import Layout
from autotune.features.leftovers import new_file
from autotune.features.locks import alone, is_at
from autotune.features.manifests import FORMAT, FORMAT_VERSION
from autotune.features.marks import MANIFEST, VALUES, stem_of
from autotune.units import format_bytes
from sherl.features import Place

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_SUCH_CALL = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class Writer:
    """Writes places of a part; use it as a context manager.

    Entering waits for whoever builds the same part, then leaves out what is whole by then: :attr:`places` is what still has to
    be computed, and it may be empty. The room of all files is taken at once, so a full disk shows before anything is
    computed. Leaving without an error makes all places whole; leaving with one (an interrupt too) removes every trace. Do not
    open two for one part in one process: the second waits for ever.
    """

    def __init__(self, folder: Folder, part: str, layouts: Mapping[tuple[str, int], Layout]) -> None:
        self._folder = folder
        self._part = part
        self._layouts = {Place(*place): layout for place, layout in layouts.items()}
        for place in (*self._layouts, Place("blocks", 0)):  # also the part's name alone
            stem_of(part, place)
        self._files: dict[Place, _File] = {}
        self._held = ExitStack()

    @property
    def places(self) -> frozenset[Place]:
        """What is still to be written, known after entering."""
        return frozenset(self._files)

    def __enter__(self) -> Self:
        """Raises:
        StoreFull: there is no room; nothing is left behind.
        StoreError: the folder cannot be written.
        """
        needed = 0
        try:
            self._held.enter_context(alone(self._folder.path / f"{self._part}.lock", self._folder.notes))
            missing = {place: layout for place, layout in self._layouts.items() if not self._is_whole(place, layout)}
            needed = sum(layout.file_bytes for layout in missing.values())
            for place, layout in missing.items():
                self._files[place] = _File(self._folder, stem_of(self._part, place), layout)
                self._files[place].take_room()
        except OSError as error:
            self._abandon()
            raise self._in_words(error, needed) from error
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
            raise self._in_words(error, file.layout.file_bytes) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises:
        ValueError: rows are missing.
        StoreFull, StoreError: a file cannot be finished; places that were finished before it stay.
        """
        try:
            if kind is None:
                for place, file in self._files.items():
                    file.check_all_came(place)
                for file in self._files.values():
                    file.finish()
        except OSError as failed:
            needed = sum(file.layout.file_bytes for file in self._files.values())
            raise self._in_words(failed, needed) from failed
        finally:
            self._abandon()

    def _is_whole(self, place: Place, layout: Layout) -> bool:
        for found in self._folder.manifests(stem_of(self._part, place)):
            own = (layout.rows, layout.shape, layout.dtype_name, lengths_digest(layout))
            if (found.rows, found.shape, found.dtype, found.lengths_digest) == own:
                return True
            self._folder.discard(found, "is of other rows, lengths or types than its key stands for now")
        return False

    def _abandon(self) -> None:
        """Let everything go; what is not finished is removed."""
        for file in self._files.values():
            file.close()
        self._held.close()

    def _in_words(self, error: OSError, needed: int) -> StoreError:
        where = self._folder.path
        if error.errno not in _NO_ROOM:
            return StoreError(
                f"Features cannot be written to {where}: {error}. Give another folder or go on without them."
            )
        free = free_bytes(where)
        reason = (
            f"{format_bytes(free)} are free"
            if error.errno == errno.ENOSPC
            else f"{error.strerror}, although {format_bytes(free)} are free"
        )
        return StoreFull(
            f"There is no room for features in {where}: {format_bytes(needed)} are needed, {reason}. Free some of the "
            "disk, give another folder, or go on without them.",
            needed=needed,
            free=free,
        )


class _File:
    """One file of values while it is written."""

    def __init__(self, folder: Folder, stem: str, layout: Layout) -> None:
        self.layout = layout
        self._folder = folder
        self._stem = stem
        self._begins = layout.begins()
        self._came = np.zeros(layout.rows, dtype=np.bool_)
        self._checksums = np.zeros(layout.rows, dtype="<u8")
        self._descriptor, self._path = new_file(folder.path, stem, VALUES)
        self._finished = False

    def take_room(self) -> None:
        """Raises:
        OSError: there is none.
        """
        size = self.layout.file_bytes
        if not size:
            return
        try:
            os.posix_fallocate(self._descriptor, 0, size)
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_SUCH_CALL:
                raise
            if free_bytes(self._path.parent) < size:  # this system cannot promise room
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            os.ftruncate(self._descriptor, size)

    def put(self, rows: NDArray[np.int64], values: Tensor) -> None:
        layout = self.layout
        self._check(rows, values)
        if not rows.size:
            return
        # bytes of each row's items: [rows, tokens, bytes] or [rows, 1, bytes]
        items, size = 1 if layout.lengths is None else values.shape[1], layout.item_bytes
        raw = values.detach().cpu().contiguous().view(torch.uint8).numpy().reshape(len(rows), items, size)
        begins, ends = self._begins[rows].tolist(), self._begins[rows + 1].tolist()
        for row, own, begin, end in zip(rows.tolist(), raw, begins, ends, strict=True):
            kept = own[: end - begin].reshape(-1).data
            self._checksums[row] = xxh3_64_intdigest(kept)
            write_all(self._descriptor, kept, begin * size)
        self._came[rows] = True

    def _check(self, rows: NDArray[np.int64], values: Tensor) -> None:
        layout = self.layout
        if rows.size and not (rows.min() >= 0 and rows.max() < layout.rows):
            raise ValueError(
                f"Rows of {self._stem} are 0 to {layout.rows - 1}; {rows.min()} to {rows.max()} were given."
            )
        tokens = None
        if layout.lengths is not None:
            tokens = max(values.shape[1] if values.ndim > 1 else 0, int(layout.lengths[rows].max(initial=0)))
        wanted = layout.batch_shape(len(rows), tokens)
        if tuple(values.shape) != wanted or values.dtype != layout.dtype:
            raise ValueError(
                f"Values of {self._stem} for these rows are {layout.dtype_name} {list(wanted)}; "
                f"{values.dtype} {list(values.shape)} were given."
            )

    def check_all_came(self, place: Place) -> None:
        if not self._came.all():
            missing = np.flatnonzero(~self._came)
            raise ValueError(
                f"{len(missing)} of {self.layout.rows} rows of {tuple(place)} were never written, row {missing[0]} for one."
            )

    def finish(self) -> None:
        """The values reach the disk, then the manifest appears."""
        layout = self.layout
        index = self._checksums.tobytes()
        if layout.lengths is not None:
            index = layout.lengths.astype("<i8").tobytes() + index
        write_all(self._descriptor, memoryview(index), layout.value_bytes)
        os.fsync(self._descriptor)
        if not is_at(self._descriptor, self._path):
            raise OSError(errno.ENOENT, f"{self._path} was removed while it was written")
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "key_digest": self._folder.digest,
            "stem": self._stem,
            "rows": layout.rows,
            "shape": list(layout.shape),
            "dtype": layout.dtype_name,
            "ragged": layout.lengths is not None,
            "items": layout.items,
            "value_bytes": layout.value_bytes,
            "file_bytes": layout.file_bytes,
            "index_checksum": xxh3_128_hexdigest(index),
            "lengths_digest": lengths_digest(layout),
        }
        self._folder.put_json(self._stem, self._path.with_suffix(MANIFEST), manifest)
        self._finished = True

    def close(self) -> None:
        """Let the file go, and remove it if it is not finished; harmless a second time."""
        if self._descriptor < 0:
            return
        if not self._finished:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def lengths_digest(layout: Layout) -> str:
    """Equal for layouts whose rows have equal lengths; empty where the shape is fixed."""
    return "" if layout.lengths is None else hashlib.sha256(layout.lengths.astype("<i8").tobytes()).hexdigest()[:32]


def free_bytes(path: Path) -> int:
    """What the file system has left for this user."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
