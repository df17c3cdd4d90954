"""Advisory locks of the operating system (flock): they end with the process that holds them, ``kill -9`` included.

Whoever reads or writes a file of values holds a shared lock on it; whoever would delete it needs the exclusive one. Whoever
builds a part's features holds the exclusive lock of that part. A file system or a platform without flock is told to the
caller, who then goes on without: nothing is evicted there, and two builders may both do the work.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]  # a module there, nothing here

PATIENCE_SECONDS = 5.0
"""How long a reader waits for whoever looks whether a file may go; that takes milliseconds."""


class Lock(Enum):
    """What came of asking for a lock."""

    HELD = "held"
    BUSY = "busy"
    NONE = "there are no locks here"


def try_lock(descriptor: int, *, exclusive: bool) -> Lock:
    """Ask for a lock on an open file, without waiting. Closing all copies of the descriptor lets it go."""
    if fcntl is None:
        return Lock.NONE
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        return Lock.BUSY if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES) else Lock.NONE
    return Lock.HELD


def lock_shared(descriptor: int, seconds: float = PATIENCE_SECONDS) -> Lock:
    """Ask for a shared lock for so long."""
    until = time.monotonic() + seconds
    while (got := try_lock(descriptor, exclusive=False)) is Lock.BUSY and time.monotonic() < until:
        time.sleep(0.01)
    return got


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still stands at this path."""
    try:
        own, there = os.fstat(descriptor), os.lstat(path)
    except OSError:
        return False
    return (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)


@contextmanager
def alone(path: Path, notes: list[str]) -> Iterator[bool]:
    """Hold a lock file's exclusive lock, waiting for it as long as its holder lives; False where there are no locks.

    A second time in one process waits for ever: the lock is the open file's, not the process's.

    Raises:
        OSError: the lock file cannot be made.
    """
    descriptor = -1
    try:
        descriptor, held = _taken(path, notes)
        yield held
    finally:
        if descriptor >= 0:
            if fcntl is not None and held:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may hold a copy of the descriptor
            os.close(descriptor)


def _taken(path: Path, notes: list[str]) -> tuple[int, bool]:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            got = try_lock(descriptor, exclusive=True)
            if got is Lock.BUSY:
                notes.append(f"Another process is building features: waited for it at {path}.")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                got = Lock.HELD
            if got is Lock.NONE:
                said = (
                    f"The file system of {path.parent} has no locks: two studies that build the same features there at once "
                    "both do the work, and nothing is evicted."
                )
                if said not in notes:
                    notes.append(said)
                return descriptor, False
            if is_at(descriptor, path):
                return descriptor, True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # somebody removed the lock file meanwhile: what is held is nobody else's lock
