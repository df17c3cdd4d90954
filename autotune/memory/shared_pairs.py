"""The pairs that all studies of this user share, so that the next one starts calibrated, and a plan too.

They lie in one file of JSON lines beside what is known of CUDA contexts. What a line holds is listed in
:class:`autotune.memory.pairs.Pair`: sizes, and what kind of machine and model they are of; no name, path or datum of a study.
Several studies may write at once. Over a megabyte, about 4,000 pairs, the older half goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from autotune.files import json_lines, write_text
from autotune.memory.pairs import Pair
from sherl.cache import cache_directory

try:
    import fcntl
except ModuleNotFoundError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]  # a module there, nothing here

MOST_BYTES = 1_000_000
PATIENCE_SECONDS = 1.0
"""How long a writer waits for another, which takes milliseconds; then it writes all the same."""
_ATTEMPTS = 5


def pairs_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where they lie: ``$AUTOTUNE_PAIRS``, or ``pairs.jsonl`` in the cache folder; it need not exist. None where the variable
    is set and empty: then none are kept or read."""
    given = environment.get("AUTOTUNE_PAIRS")
    if given is None:
        return cache_directory() / "pairs.jsonl"
    return Path(given).expanduser() if given else None


class SharedPairs:
    """The file of a user's pairs.

    Args:
        path: it need not exist.
        warn: is told once why pairs cannot be kept; studies go on without, since each keeps its own too.
    """

    def __init__(self, path: Path, warn: Callable[[str], None] = lambda _why: None) -> None:
        self.path = path
        self._warn = warn
        self._warned = False

    @classmethod
    def usual(cls, warn: Callable[[str], None] = lambda _why: None) -> SharedPairs | None:
        """Those of :func:`pairs_file`; None where none are to be kept."""
        path = pairs_file()
        return None if path is None else cls(path, warn)

    def read(self) -> Iterator[Pair]:
        """All that are there; damaged lines are passed over, and a file that cannot be read holds none."""
        with contextlib.suppress(OSError):
            for line in json_lines(self.path):
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    yield Pair.from_line(line)

    def add(self, pair: Pair) -> None:
        """Keep a pair."""
        try:
            line = f"\n{json.dumps(pair.to_line())}\n".encode()  # as append_line has it
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for attempt in range(_ATTEMPTS):
                if self._append(line, anyway=attempt == _ATTEMPTS - 1):
                    return
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"what trials teach of memory could not be kept for later studies in {self.path} ({error})")

    def _append(self, line: bytes, *, anyway: bool) -> bool:
        """False where the file was trimmed between opening and locking it, so that the line would have gone into the old one."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
            if not (self._is_open_as(descriptor) or anyway):
                return False
            os.write(descriptor, line)
            if os.fstat(descriptor).st_size > MOST_BYTES:
                self._trim()
            return True
        finally:
            os.close(descriptor)  # lets the lock go too

    def _is_open_as(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:  # taken away meanwhile
            return False

    def _trim(self) -> None:
        """Keeps the newest lines, half of what may be; whoever reads meets the old file or the new one."""
        kept: list[str] = []
        room = MOST_BYTES // 2
        for line in reversed(self.path.read_text(encoding="utf-8", errors="replace").splitlines()):
            room -= len(line.encode()) + 1
            if room < 0:
                break
            if line:
                kept.append(line)
        write_text(self.path, "".join(f"{line}\n" for line in reversed(kept)), private=True)


def _lock(descriptor: int) -> None:
    """The lock on an open file, waited for :data:`PATIENCE_SECONDS`; where there is none, writers go without: at worst a
    pair that is written while another process trims is lost."""
    until = time.monotonic() + PATIENCE_SECONDS
    while fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.01)
                continue
        except OSError:  # a file system without locks
            pass
        return
