"""What the processes that a process has started hold besides it, on Linux.

A forked process shows all it inherited as its own, though it is the same memory until one of the two writes; between a
``vfork`` and its ``exec`` it even has its parent's memory itself. Adding up their private bytes (:mod:`autotune.memory.process`)
would count that twice and end good trials, so of what a descendant holds only its proportional share (Pss: a page that
*n* processes map counts 1/*n*) is taken, and from that the part that it can have in common with the first process,
which is counted there as a whole. So shared pages count once, also those that descendants share among themselves.

The kernel goes through all pages for that: about 20 milliseconds a gigabyte. It is done at most every fifth of a second and for a
twentieth of the time; in between, what a descendant's private bytes grow by is added, which is cheap.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from autotune.memory.status import anonymous_bytes, memory_lines
from autotune.processes import children, started

#: From one look at the descendants to the next, at least. Who has been there for a single look is not counted yet: it may
#: be about to become another program.
LOOK_SECONDS = 0.2
#: So many times as long as a look took is waited before the next.
REST = 20


@dataclass(frozen=True)
class _Share:
    """Proportional shares of a process's pages, in bytes. common: of those it has in common with others."""

    anonymous: int
    shared_memory: int
    common: int


@dataclass(frozen=True)
class _Member:
    """A descendant at the last look. own_bytes: what it held besides the first process. private_bytes: all that it showed."""

    pid: int
    own_bytes: int
    private_bytes: int


class Family:
    """The descendants of one process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._members: list[_Member] = []
        self._seen: set[tuple[int, float]] = set()
        self._next_look = 0.0

    def held_bytes(self) -> int:
        """What they hold besides the process itself.

        Raises:
            OSError: /proc cannot be read.
        """
        if time.monotonic() >= self._next_look:
            self._look()
        held = 0
        for member in self._members:
            now = anonymous_bytes(member.pid) or 0
            held += min(now, member.own_bytes + max(0, now - member.private_bytes))
        return held

    def _look(self) -> None:
        began = time.monotonic()
        parents = _descendants(self._pid)
        seen = {(pid, start) for pid in parents if (start := started(pid)) is not None}
        settled = [pid for pid, start in seen if (pid, start) in self._seen]
        first = _share(self._pid) if settled else None
        self._seen = seen
        self._members = [self._member(pid, parents[pid], first) for pid in settled]
        self._next_look = time.monotonic() + max(LOOK_SECONDS, REST * (time.monotonic() - began))

    def _member(self, pid: int, parent: int, first: _Share | None) -> _Member:
        private = anonymous_bytes(pid) or 0
        if _same_memory(pid, parent):
            return _Member(pid, 0, private)
        share = _share(pid)
        if share is None or first is None:  # a kernel that does not tell shares: the least that is sure
            own = private - (anonymous_bytes(self._pid) or 0) if _forked(pid, self._pid) else private
        elif _forked(pid, self._pid):
            own = share.anonymous + share.shared_memory - first.common
        else:  # another program has only shared memory in common with it
            own = share.anonymous + max(0, share.shared_memory - first.shared_memory)
        return _Member(pid, max(0, own), private)


def _descendants(pid: int) -> dict[int, int]:
    """All descendants, each with its parent."""
    found: dict[int, int] = {}
    ahead = [pid]
    while ahead:
        parent = ahead.pop()
        new = [one for one in children(parent) if one not in found]
        found.update(dict.fromkeys(new, parent))
        ahead += new
    return found


def _same_memory(pid: int, parent: int) -> bool:
    """Whether a process runs in its parent's memory, as between ``vfork`` and ``exec``: then it shows the same in all."""
    before, shown, after = memory_lines(parent), memory_lines(pid), memory_lines(parent)
    return bool(shown) and shown in (before, after)


def _forked(pid: int, first: int) -> bool:
    """Whether it still runs the program of the first process: its stack begins at the same (random) address."""
    return _stack_start(pid) == _stack_start(first)


def _stack_start(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[25])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _share(pid: int) -> _Share | None:
    """None where the process is gone, or the kernel does not tell."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    told = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(b":") for line in lines)}
    if not told.keys() >= {b"Pss_Anon", b"Pss_Shmem", b"SwapPss", b"Private_Dirty"}:
        return None
    anonymous, shared_memory = told[b"Pss_Anon"] + told[b"SwapPss"], told[b"Pss_Shmem"]
    alone = told[b"Private_Dirty"] + told[b"SwapPss"]
    return _Share(anonymous, shared_memory, max(0, anonymous + shared_memory - alone))
