"""One driver writes one study: an advisory lock on a file beside it, which the operating system drops when its holder dies."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from autotune.errors import StudyError

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]  # a module there, nothing here


class StudyLock:
    """Held from :meth:`acquire` until :meth:`release` or the end of the process, ``kill -9`` included.

    ``flock`` is used: it is the open file that is locked, so two records of one process exclude each other too. The
    file stays when the lock goes (removing it would let two drivers lock two files of one name). Where the platform
    has no ``fcntl``, the file only names the last driver.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def acquire(self) -> Self:
        """Takes the lock.

        Raises:
            StudyError: another driver holds it (the message names its process and machine), or the folder cannot be
                written.
        """
        if self._file is not None:
            return self
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - stays open as long as the lock is held
        except OSError as error:
            raise StudyError(
                f"The study folder {self.path.parent} cannot be written: {error.strerror or error}."
            ) from error
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = self._holder(file)
                file.close()
                raise StudyError(
                    f"The study {self.path.parent} is being written by another driver ({holder}): a study has one driver "
                    f"at a time. Wait until that one has ended, or give this one another --study-dir."
                ) from error
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
        file.flush()
        self._file = file
        return self

    def release(self) -> None:
        """Lets the lock go; harmless where it is not held."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()  # closing the file unlocks it
            self._file = None

    @staticmethod
    def _holder(file: IO[str]) -> str:
        try:
            file.seek(0)
            who = json.load(file)
            return f"process {who['pid']} on {who['host']}, since {who['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "its name could not be read"

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
