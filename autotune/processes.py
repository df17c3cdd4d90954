"""Which process a pid stands for, and which processes it has started."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

import psutil


def started(pid: int) -> float | None:
    """When a process was started, in an arbitrary but fixed unit: pid and start together name a process for ever, while
    a pid alone is given again. None if there is no such process or only its exit status is left."""
    if sys.platform.startswith("linux"):
        try:
            # behind the command's name, which may hold anything: state, then 18 fields, then the start in clock ticks
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in (b"Z", b"X") else float(fields[19])
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def children(pid: int) -> list[int]:
    """The processes that a process has started or been given as theirs ended, with those whose exit status is left; the kernel
    may miss some while others end. None where there is no such process."""
    if not _tells_children():
        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.NoSuchProcess:
            return []
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found


@cache
def _tells_children() -> bool:
    """Whether /proc has lists of children: Linux may be built without them."""
    return Path("/proc/thread-self/children").exists()
