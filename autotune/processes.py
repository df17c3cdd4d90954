"""Which process a pid stands for."""

from __future__ import annotations

import sys
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
