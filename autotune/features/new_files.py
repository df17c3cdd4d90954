"""A file of a store while it is written: room for all of it first, its bytes, and at last its manifest."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import StoreError, StoreFull
from autotune.features.files import Folder, write_all
from autotune.features.leftovers import new_file
from autotune.features.locks import Lock, is_at, try_lock
from autotune.features.marks import MANIFEST, VALUES
from autotune.units import format_bytes

_NO_SUCH_CALL = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NewFile:
    """A file of values that nobody takes for whole until :meth:`finish`."""

    def __init__(self, folder: Folder, stem: str) -> None:
        """Raises:
        OSError: it cannot be made.
        """
        self.stem = stem
        self._folder = folder
        self._descriptor, self._path = new_file(folder.path, stem, VALUES)
        self.finished = False

    @property
    def descriptor(self) -> int:
        """Open for reading and writing."""
        return self._descriptor

    @property
    def manifest_path(self) -> Path:
        """Where its manifest appears."""
        return self._path.with_suffix(MANIFEST)

    def take_room(self, size: int) -> None:
        """Raises:
        OSError: there is none.
        """
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

    def write(self, content: memoryview, offset: int) -> None:
        """Raises:
        OSError: the disk does not take it.
        """
        write_all(self._descriptor, content, offset)

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """The values reach the disk, then the manifest appears; harmless a second time.

        Raises:
            OSError: the disk does not take them, or the file was removed.
        """
        if self.finished:
            return
        os.fsync(self._descriptor)
        if not is_at(self._descriptor, self._path):
            raise OSError(errno.ENOENT, f"{self._path} was removed while it was written")
        self._folder.put_json(self.stem, self.manifest_path, manifest)
        self.finished = True

    def close(self, *, keep: bool) -> None:
        """Let the file go; harmless a second time. What is not finished is removed, and without ``keep`` what is, unless
        somebody has it open."""
        if self._descriptor < 0:
            return
        if self.finished and not keep and try_lock(self._descriptor, exclusive=True) is Lock.HELD:
            self.manifest_path.unlink(missing_ok=True)
            self.finished = False
        if not self.finished:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1


def free_bytes(path: Path) -> int:
    """What the file system has left for this user."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def cannot_write(error: OSError, where: Path, needed: int) -> StoreError:
    """What to raise where files of so many bytes could not be written."""
    if error.errno not in _NO_ROOM:
        return StoreError(f"Features cannot be written to {where}: {error}. Give another folder or go on without them.")
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
