"""One process at a time delivers a study's messages: an advisory lock, which the operating system drops when its holder dies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]  # a module there, nothing here

_LOOK_AGAIN_S = 0.05


class Busy(TimeoutError):
    """Another process delivers."""


class DeliveryLock:
    """``flock`` on a file, which names the tracker that held it last. name: this tracker's."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._name = name

    @contextmanager
    def held(self, timeout_s: float) -> Iterator[bool]:
        """Holds the lock. Yields whether another tracker has held it since this one did.

        Raises:
            Busy: another process holds it all the time.
            OSError: the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+", encoding="utf-8") as file:
            end = time.monotonic() + timeout_s
            while not _locked(file.fileno()):
                if time.monotonic() >= end:
                    raise Busy("another command delivers them just now")
                time.sleep(_LOOK_AGAIN_S)
            try:
                file.seek(0)
                others = file.read().strip() != self._name
                if others:
                    file.truncate(0)
                    file.write(self._name)
                    file.flush()
                yield others
            finally:
                _unlock(file.fileno())  # not left to the closing: a process forked meanwhile has the file open too


def _locked(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
