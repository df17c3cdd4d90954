"""Advisory locks of the operating system (flock): they end with the process that holds them, ``kill -9`` included.

Whoever reads or writes a file of values holds a shared lock on it; whoever would delete it needs the exclusive one. Whoever
builds a part's features holds the exclusive lock of that part; whoever fills a key's folder that of the folder, and whoever
takes room that of the root, for as long as that takes. A file system or a platform without flock is told to the
caller, who then goes on without: nothing is evicted there, and two builders may both do the work.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from autotune.errors import StoreError
from autotune.units import format_duration

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]  # a module there, nothing here

PATIENCE_SECONDS = 5.0
"""How long a reader waits for whoever looks whether a file may go; that takes milliseconds."""
STALLED_SECONDS = 600.0
"""How long whoever waits for a builder bears that nothing of its work changes: longer than a pass of a large
backbone that it measures, or the flush of a file, takes."""
LONGEST_SECONDS = 2 * 3600.0
"""How long anybody waits for a builder, however busy that is: a study that computes everything itself has come far by then."""
POLL_SECONDS = 0.1


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
def alone(path: Path, say: Callable[[str], None], sign: Callable[[], object]) -> Iterator[bool]:
    """Hold a lock file's exclusive lock, waiting for its holder as long as that is at work; False where there are no locks.

    A second time in one process waits in vain: the lock is the open file's, not the process's.

    say: is told that this process waits, before it does, and that there are no locks. sign: of life, something that changes
    while the holder is at work.

    Raises:
        OSError: the lock file cannot be made.
        StoreError: the holder shows no sign of life, or is at work for too long.
    """
    descriptor = -1
    try:
        descriptor, held = _taken(path, say, sign)
        yield held
    finally:
        if descriptor >= 0:
            if fcntl is not None and held:
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may hold a copy of the descriptor
            os.close(descriptor)


def _taken(path: Path, say: Callable[[str], None], sign: Callable[[], object]) -> tuple[int, bool]:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            got = try_lock(descriptor, exclusive=True)
            if got is Lock.BUSY:
                say(f"Another process is building features: this one waits for it at {path}.")
                _wait(descriptor, path, sign)
                got = Lock.HELD
            if got is Lock.NONE:
                say(
                    f"The file system of {path.parent} has no locks: two studies that build the same features there at once "
                    "both do the work, and nothing is evicted."
                )
                return descriptor, False
            if is_at(descriptor, path):
                return descriptor, True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # somebody removed the lock file meanwhile: what is held is nobody else's lock


def _wait(descriptor: int, path: Path, sign: Callable[[], object]) -> None:
    """Raises:
    StoreError: as :func:`alone`.
    """
    began = changed = time.monotonic()
    seen = sign()
    while try_lock(descriptor, exclusive=True) is Lock.BUSY:
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        if (found := sign()) != seen:
            seen, changed = found, now
        if now - changed > STALLED_SECONDS:
            raise StoreError(
                f"Another process holds {path}, and for {format_duration(STALLED_SECONDS)} it has added nothing to what it "
                "builds: it hangs, or was stopped. End that process, give another folder, or go on without features."
            )
        if now - began > LONGEST_SECONDS:
            raise StoreError(
                f"Another process has been building features for more than {format_duration(LONGEST_SECONDS)} and still "
                f"holds {path}. Begin again when it is done, give another folder, or go on without features."
            )
