"""The fork server's own process: ``python -m autotune.trial.server FD``, started by :mod:`autotune.trial.fork_server`.

It imports once what every trial needs, starts no thread and touches no CUDA, and forks a process for each trial. It
ends, and ends every trial of its own, when its parent dies (the socket's end of file) or when the driver dies. Its own
death by force ends the trials too (each asked the kernel for that, see :mod:`autotune.trial.child`).

Messages are JSON, one a packet. From the parent: ``{"fork": true}`` with the child's end of a channel, ``{"release": pid}``.
To the parent: ``{"ready": seconds}`` or ``{"error": traceback}`` once; then ``{"forked": pid}``, ``{"exited": pid, "status": n}``.
An ended child stays a zombie until it is released, so its process id means nothing else meanwhile. What a trial has started and
left behind, in whatever session, comes to be this process's child (on Linux) and is ended before the trial's exit is told.

A server that was given an address lends itself: whoever connects there and has the same wishes (``{"like": key}``, with two
descriptors: a socket to serve and a file for what is printed) gets a server of its own, forked from this one with all
imports done, and the answer ``{"serving": pid}``, or ``{"unlike": key}``. Such a server belongs to whoever holds the socket's other
end; it ends with that or with the driver, not with the one that it was forked from.
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
from dataclasses import dataclass
from typing import Any

from autotune.processes import children
from autotune.trial.ancestry import Ancestor
from autotune.trial.child import adopt_orphans, run_child

PACKET_BYTES = 2**16
WATCH_SECONDS = 0.5
#: How long an exit is not told, at most, while something that the trial has left behind has not gone, though it was killed.
LEFTOVER_SECONDS = 1.5
_LEFTOVER_STEP = 0.02


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
    server = _Server(server_socket, driver, _lending(settings))
    server_socket.send(json.dumps({"ready": time.monotonic() - start}).encode())
    server.serve()


@dataclass
class _Lending:
    """A door, open to whoever knows the address; ``key``: what they must wish for."""

    door: socket.socket
    key: str


def _lending(settings: dict[str, Any]) -> _Lending | None:
    """Where there can be no such door everybody imports for himself."""
    if settings.get("address") is None:
        return None
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        door.bind(settings["address"])
        door.listen()
    except OSError:
        door.close()
        return None
    return _Lending(door, settings["key"])


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

    def __init__(self, server_socket: socket.socket, driver: Ancestor | None, lending: _Lending | None = None) -> None:
        self._socket = server_socket
        self._driver = driver
        self._lending = lending
        self._lent: set[int] = set()
        self._children: dict[int, bool] = {}
        self._untold: dict[int, float] = {}  # when an exit was seen that is not told yet
        adopt_orphans()
        self._helpers = set(children(os.getpid()))  # of what was imported
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only so that the pipe below wakes the loop
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def serve(self) -> None:
        try:
            while True:
                sources: list[Any] = [self._socket, self._wake_read]
                sources += [] if self._lending is None else [self._lending.door]
                readable, _, _ = select.select(sources, [], [], _LEFTOVER_STEP if self._untold else WATCH_SECONDS)
                if self._wake_read in readable:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                self._tell_exits()
                if self._lending is not None and self._lending.door in readable:
                    self._lend(self._lending)
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
            self._forget()
            run_child(channel, server=server, driver=self._driver)  # never returns
        os.close(channel)
        self._children[pid] = False
        self._send({"forked": pid})

    def _forget(self) -> None:
        """In a fork: the parent's end of file must reach the server even while the fork lives, so what was inherited is closed."""
        signal.set_wakeup_fd(-1)
        self._socket.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._lending is not None:
            self._lending.door.close()

    def _lend(self, lending: _Lending) -> None:
        """Answers one who came to the door, and never waits long for him."""
        visitor, _ = lending.door.accept()
        descriptors: list[int] = []
        with visitor:
            visitor.settimeout(WATCH_SECONDS)
            try:
                packet, descriptors, _, _ = socket.recv_fds(visitor, PACKET_BYTES, 2)
                asked = json.loads(packet or b"{}")
                if asked.get("like") != lending.key or len(descriptors) != 2:
                    visitor.send(json.dumps({"unlike": lending.key}).encode())
                    return
                driver = Ancestor(**asked["driver"]) if asked["driver"] is not None else None
                pid = os.fork()
                if pid == 0:
                    visitor.close()
                    self._forget()
                    _serve_lent(descriptors, driver)  # never returns
                self._lent.add(pid)
                visitor.send(json.dumps({"serving": pid}).encode())
            except (OSError, ValueError):  # it went away again, or is none of ours
                return
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _tell_exits(self) -> None:
        self._lent -= {pid for pid in self._lent if os.waitpid(pid, os.WNOHANG)[0] == pid}
        ended = {}
        for pid, told in self._children.items():
            if not told and (result := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                ended[pid] = result
        left = self._end_leftovers()  # only now: they come here with the trial's end
        for pid, result in ended.items():
            if left and time.monotonic() < self._untold.setdefault(pid, time.monotonic()) + LEFTOVER_SECONDS:
                continue
            self._untold.pop(pid, None)
            self._children[pid] = True
            exited = result.si_code == os.CLD_EXITED
            self._send({"exited": pid, "status": result.si_status if exited else -result.si_status})

    def _end_leftovers(self) -> bool:
        """Kills whatever has become this process's child without its doing: trials' processes keep theirs while they live, so it
        is of a trial that has ended. Whether there was any."""
        if not sys.platform.startswith("linux"):
            return False  # the system's first process gets it there
        left = set(children(os.getpid())) - self._children.keys() - self._lent - self._helpers
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # another user's, who alone may end it
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return bool(left)

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
        until = time.monotonic() + LEFTOVER_SECONDS
        while self._end_leftovers() and time.monotonic() < until:
            time.sleep(_LEFTOVER_STEP)

    def _send(self, message: dict[str, Any]) -> None:
        self._socket.send(json.dumps(message).encode())


def _serve_lent(descriptors: list[int], driver: Ancestor | None) -> None:
    """The rest of a lent server's life."""
    code = 1
    try:
        os.setsid()
        channel, prints = descriptors
        for standard in (1, 2):
            os.dup2(prints, standard)
        os.close(prints)
        own = _Server(socket.socket(fileno=channel), driver)
        own._send({"ready": 0.0})
        own.serve()
        code = 0
    except BaseException:  # noqa: BLE001 - nothing may return into the server that this was forked from
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
