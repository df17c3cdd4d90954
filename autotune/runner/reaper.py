"""A small process that cleans up behind a driver, also behind one that was killed with -9.

Ray's servers die with the driver, but two of its helpers first wait a minute for a server that is gone. This process
waits for the end of file on a pipe that only the driver holds; then it ends what the driver named (processes by id and
start, so that nobody else is hit) and removes the folder of Ray's files. It runs as a plain script without any package.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path


class Reaper:
    """The driver's side. ``close`` cleans up now; so does the driver's death."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(Path(__file__).resolve()), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
            cwd="/",
        )

    def mark(self, pids: list[int]) -> None:
        """These processes are to end with the driver."""
        assert self._process.stdin is not None
        for pid in pids:
            start = start_ticks(pid)
            if start is not None:
                with contextlib.suppress(OSError):  # the reaper was killed: then nothing is cleaned up, and no more
                    self._process.stdin.write(f"{pid} {start}\n".encode())
        with contextlib.suppress(OSError):
            self._process.stdin.flush()

    def close(self) -> None:
        """Cleans up and waits until it is done."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def start_ticks(pid: int) -> str | None:
    """When a process started; None when there is none, or this is no Linux."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _main(folder: str) -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # it ends with the driver and not before
    marked = [line.split() for line in sys.stdin]  # until the driver is gone
    for pid, start in marked:
        if start_ticks(int(pid)) == start:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main(sys.argv[1])
