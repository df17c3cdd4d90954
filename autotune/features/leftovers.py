"""Files that may be removed: what a writer that is gone left half-written, and what nobody has open.

Whoever writes a file holds a shared lock on it from its first moment (:func:`new_file`), so that it is not taken for left over
by a process that cannot see its writer, in another container say. Whoever removes one holds the exclusive lock, and looks
again under it: what had no manifest before may have one by then.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.features.locks import Lock, is_at, lock_shared, try_lock
from autotune.features.marks import MANIFEST, SCRATCH, VALUES, new_name, parse, writer_lives


def new_file(folder: Path, stem: str, ending: str) -> tuple[int, Path]:
    """A file that was not there before, open for reading and writing with a shared lock on it, and its path.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        path = folder / (new_name(stem) + ending)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        if lock_shared(descriptor) is not Lock.BUSY and is_at(descriptor, path):
            return descriptor, path
        os.close(descriptor)  # between the two calls somebody who could not see this writer took it for left over
        path.unlink(missing_ok=True)


@contextmanager
def exclusively(path: Path) -> Iterator[bool]:
    """Hold the exclusive lock of a regular file; False where somebody holds another, there are no locks, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        yield regular and try_lock(descriptor, exclusive=True) is Lock.HELD and is_at(descriptor, path)
    finally:
        os.close(descriptor)


def left_over(folder: Path) -> list[Path]:
    """Unfinished manifests, and values without a manifest, whose writer seems to be gone; :func:`remove_left_over` looks again."""
    names = names_in(folder)
    return [
        folder / name
        for name in sorted(names)
        if (_kind(name) == SCRATCH or (_kind(name) == VALUES and Path(name).stem + MANIFEST not in names))
        and not writer_lives(name)
    ]


def remove_left_over(path: Path) -> bool:
    """Remove what a dead writer left, unless somebody holds it or it was finished meanwhile; whether it was."""
    with exclusively(path) as held:
        return held and not (path.suffix == VALUES and os.path.lexists(path.with_suffix(MANIFEST))) and _unlinked(path)


def remove_unused(path: Path) -> bool:
    """Remove a regular file of the store that nobody holds; whether it was."""
    with exclusively(path) as held:
        return held and _unlinked(path)


def names_in(folder: Path) -> set[str]:
    """Names of the store's form in a folder; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if parse(entry.name)}
    except OSError:
        return set()


def _kind(name: str) -> str:
    return (parse(name) or ("", ""))[1]


def _unlinked(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
