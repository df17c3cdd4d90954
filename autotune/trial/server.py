"""The fork server's own process: ``python -m autotune.trial.server FD``, started by :mod:`autotune.trial.fork_server`.

It imports once what every trial needs, starts no thread and touches no CUDA, and forks a process for each trial. It
ends, and ends every trial of its own, when its parent dies (the socket's end of file) or when the driver dies. Its own
death by force ends the trials too (each asked the kernel for that, see :mod:`autotune.trial.child`).

Messages are JSON, one a packet. From the parent: ``{"fork": true}`` with the child's end of a channel, ``{"release": pid}``.
To the parent: ``{"ready": seconds}`` or ``{"error": traceback}`` once; then ``{"forked": pid}``, ``{"exited": pid, "status": n}``.
An ended child stays a zombie until it is released, so its process id means nothing else meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from autotune.trial.ancestry import Ancestor
from autotune.trial.child import run_child

PACKET_BYTES = 2**16
WATCH_SECONDS = 0.5


def main() -> None:
    """Serves until the parent or the driver is gone; arguments: the socket's number, then settings as JSON."""
    server_socket = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    driver = Ancestor(**settings["driver"]) if settings["driver"] is not None else None
    if driver is not None and not driver.runs_here():
        driver = None  # another machine's process cannot be watched from here; Ray ends our parent with it
    start = time.monotonic()
    try:
        with _ended_with(settings["parent"], driver):
            for name in settings["preload"]:
                importlib.import_module(name)
            if settings["backbone"] is not None:
                importlib.import_module("autotune.trial.preload").warm(settings["backbone"])
    except BaseException:
        # Whatever an import raises has to reach the parent, which raises it there.
        server_socket.send(json.dumps({"error": traceback.format_exc()[-8000:]}).encode())
        raise
    gc.collect()
    gc.freeze()  # collections in a trial would otherwise copy the pages of everything imported here
    server = _Server(server_socket, driver)
    server_socket.send(json.dumps({"ready": time.monotonic() - start}).encode())
    server.serve()


@contextlib.contextmanager
def _ended_with(parent: int, driver: Ancestor | None) -> Iterator[None]:
    """While imports keep this process from its loop, a timer looks whether the parent and the driver still live.

    The kernel could be asked instead, but it would end this process with the *thread* that started it.
    """

    def look(*_: object) -> None:
        if os.getppid() != parent or (driver is not None and not driver.is_alive()):
            os._exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, WATCH_SECONDS, WATCH_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


class _Server:
    """The loop; ``children`` maps a process id to whether its exit has been told."""

    def __init__(self, server_socket: socket.socket, driver: Ancestor | None) -> None:
        self._socket = server_socket
        self._driver = driver
        self._children: dict[int, bool] = {}
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that the pipe below wakes the loop
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def serve(self) -> None:
        try:
            while True:
                sources: list[Any] = [self._socket, self._wake_read]
                readable, _, _ = select.select(sources, [], [], WATCH_SECONDS)
                if self._wake_read in readable:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                self._tell_exits()
                if self._socket in readable and not self._obey():
                    return
                if self._driver is not None and not self._driver.is_alive():
                    return
        except (BrokenPipeError, ConnectionResetError):
            return  # the parent is gone
        finally:
            self._end_children()

    def _obey(self) -> bool:
        """One message of the parent; False at its end of file."""
        packet, descriptors, _, _ = socket.recv_fds(self._socket, PACKET_BYTES, 1)
        if not packet:
            return False
        message = json.loads(packet)
        if "fork" in message:
            self._fork(descriptors[0])
        else:
            self._release(message["release"])
        return True

    def _fork(self, channel: int) -> None:
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            # The parent's end of file must reach the server even while a trial lives: close what was inherited.
            signal.set_wakeup_fd(-1)
            self._socket.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            run_child(channel, server=server, driver=self._driver)  # never returns
        os.close(channel)
        self._children[pid] = False
        self._send({"forked": pid})

    def _tell_exits(self) -> None:
        for pid, told in self._children.items():
            if not told:
                result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if result is not None:
                    self._children[pid] = True
                    exited = result.si_code == os.CLD_EXITED
                    self._send({"exited": pid, "status": result.si_status if exited else -result.si_status})

    def _release(self, pid: int) -> None:
        if self._children.pop(pid, None) is not None:
            os.waitpid(pid, 0)

    def _end_children(self) -> None:
        for pid in self._children:
            for kill in (os.killpg, os.kill):  # with what it has started; itself, where it had no time to lead a group
                with contextlib.suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.send(json.dumps(message).encode())


if __name__ == "__main__":
    main()
