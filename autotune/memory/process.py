"""What a process holds for itself, as the operating system counts it.

On Linux it is ``RssAnon + RssShmem + VmSwap`` of ``/proc/PID/status``: pages that belong to no file, whether in memory
or swapped out. Pages of files (libraries, a memory-mapped data set) are left out: the kernel drops and rereads them
as it likes, and they are shared by all trials. Shared memory is counted, because no file backs it and nothing else would
answer for it. Pages that a trial inherited from its fork server and has not written yet are counted too, so a forked
trial is charged for its imports like a process of its own, and two trials never lean on each other.

Elsewhere psutil's unique set size (or, failing that, resident set size) takes its place.
"""

from __future__ import annotations

import os
import sys

import psutil

from autotune.memory.family import Family
from autotune.memory.status import anonymous_bytes


def private_bytes(pid: int) -> int | None:
    """Private bytes of a process; None if there is no such process (any more), or only its exit status is left.

    Costs about 20 microseconds on Linux.
    """
    if not sys.platform.startswith("linux"):
        return _private_bytes_elsewhere(pid)
    return anonymous_bytes(pid)


def _private_bytes_elsewhere(pid: int) -> int | None:
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        try:
            memory = process.memory_full_info()
        except psutil.AccessDenied:
            return int(process.memory_info().rss)
        return int(getattr(memory, "uss", memory.rss))
    except psutil.NoSuchProcess:
        return None


class ProcessMeter:
    """Private bytes of a process (see this module's first lines), as the ``device`` figure of a machine without a GPU.

    On Linux with what the processes that it has started hold besides it (:mod:`autotune.memory.family`), once they have been
    there for a fifth of a second; elsewhere the process alone.
    """

    name = "process"
    source = "process private bytes"

    def __init__(self) -> None:
        self._families: dict[int, Family] = {}

    def device_bytes(self, pid: int) -> int | None:
        """What the process holds, in bytes; None once it has ended.

        Raises:
            OSError: the system cannot be asked, e.g. as this process has no descriptor left.
        """
        held = private_bytes(pid)
        if held is None:
            self._families.pop(pid, None)
            return None
        if not sys.platform.startswith("linux"):
            return held
        return held + self._families.setdefault(pid, Family(pid)).held_bytes()


def own_private_bytes() -> int:
    """Private bytes of this very process, e.g. the baseline of a trial after its imports."""
    return private_bytes(os.getpid()) or 0
