"""Who a trial must not outlive: the process that drives the study, recognised beyond doubt on its own machine."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """A process, by its id and its start, so that another one that gets the same id later is not taken for it.

    started: seconds since boot on Linux, since 1970 elsewhere. host: :func:`host_identity` where it runs.
    """

    pid: int
    started: float
    host: str

    @classmethod
    def of(cls, pid: int | None = None) -> Ancestor:
        """The process of this id; None takes this process.

        Raises:
            ProcessLookupError: no such process runs here.
        """
        pid = os.getpid() if pid is None else pid
        started = _start_time(pid)
        if started is None:
            raise ProcessLookupError(f"No process {pid} runs on this machine.")
        return cls(pid=pid, started=started, host=host_identity())

    def runs_here(self) -> bool:
        """Whether it is known to be alive on this machine; False for a process of another machine too."""
        return self.host == host_identity() and self.is_alive()

    def is_alive(self) -> bool:
        """Whether it lives; meaningful only on its own machine. A zombie is dead."""
        started = _start_time(self.pid)
        return started is not None and abs(started - self.started) < 0.005


@cache
def host_identity() -> str:
    """Names this machine's process table: host name, boot and process namespace, so containers differ."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [socket.gethostname()]
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):  # a locked-down /proc: the host name has to do
            parts += [boot.read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "/".join(parts)


def _start_time(pid: int) -> float | None:
    """When a process started; None when there is none or it is a zombie."""
    if sys.platform.startswith("linux"):
        # Ticks since boot are exact; psutil's create time moves when the clock is set.
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else int(fields[19]) / os.sysconf("SC_CLK_TCK")
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None
