"""What Linux says of a process's memory in ``/proc/PID/status``."""

from __future__ import annotations

from pathlib import Path

_ANONYMOUS = (b"RssAnon:", b"RssShmem:", b"VmSwap:")


def anonymous_bytes(pid: int) -> int | None:
    """Pages that belong to no file, in memory or swapped out; None if there is no such process (any more), or only its
    exit status is left.

    Raises:
        OSError: it cannot be read.
    """
    found = [line for line in _lines(pid) if line.startswith(_ANONYMOUS)]
    if not found:  # a zombie holds no memory and has no such lines
        return None
    return sum(int(line.split()[1]) for line in found) * 1024


def memory_lines(pid: int) -> list[bytes]:
    """All that is told of its memory; empty where :func:`anonymous_bytes` is None.

    Raises:
        OSError: it cannot be read.
    """
    return [line for line in _lines(pid) if line.startswith((b"Vm", b"Rss"))]


def _lines(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/status").read_bytes().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
