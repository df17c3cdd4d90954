"""Starts trial processes in a fraction of a second: forks of a process that has its imports done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any

from autotune.errors import DeviceError
from autotune.memory.allocator_settings import VARIABLES
from autotune.processes import started
from autotune.trial.ancestry import Ancestor
from autotune.trial.server import PACKET_BYTES

#: What a trial imports, also what it imports on first use: then the baseline of its memory holds all of it. A missing
#: module stops the server from starting.
PRELOAD: tuple[str, ...] = ("autotune.trial.preload", "sklearn.metrics", "scipy.stats", "peft.tuners.lora.layer")
START_SECONDS = 300.0
FORK_SECONDS = 30.0


@dataclass(frozen=True)
class Lender:
    """Where a fork server of this machine can be asked for one that is forked from it, and the path that it was started with."""

    address: str
    path: tuple[str, ...]


class ForkServer:
    """A fork server that belongs to this process.

    It starts at once and in the background; the first fork waits for its imports. It ends by :meth:`close`, and by
    itself when this process or the driver dies, together with every trial it has started. Not for several threads.

    preload: modules to import first. backbone: the source of the backbone that trials will load. path: where modules
    are looked for; this process's own ``sys.path`` by default. lends: whether others on this machine may have servers forked
    from this one, by its ``lender``. lender: that of one; where it answers and has imported the same, this server is
    there at once, and else it is started as any other.
    """

    def __init__(
        self,
        *,
        preload: Sequence[str] = PRELOAD,
        backbone: str | None = None,
        driver: Ancestor | None = None,
        path: Sequence[str] | None = None,
        lends: bool = False,
        lender: Lender | None = None,
    ) -> None:
        search = tuple(sys.path if path is None else path)
        self.lender: Lender | None = None
        self._room: tempfile.TemporaryDirectory[str] | None = None
        if lends:
            self._room = tempfile.TemporaryDirectory(prefix="atune-", dir="/tmp" if Path("/tmp").is_dir() else None)
            self.lender = Lender(str(Path(self._room.name) / "door"), search)  # a socket's path may have 107 bytes
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._exits: dict[int, int] = {}
        self._ready = False
        self._forks = False
        self._began = time.monotonic()
        settings = {
            "preload": list(preload),
            "backbone": backbone,
            "driver": asdict(driver) if driver is not None else None,
            "parent": os.getpid(),
            "address": None if self.lender is None else self.lender.address,
        }
        environment = _environment(search)
        settings["key"] = key = _key(settings, environment)
        self._process: subprocess.Popen[bytes] | _Lent
        with theirs:
            lent = (
                None
                if lender is None
                else _borrow(lender.address, key, settings["driver"], theirs, self._errors.fileno())
            )
            self._process = lent or subprocess.Popen(
                [sys.executable, "-m", "autotune.trial.server", str(theirs.fileno()), json.dumps(settings)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                start_new_session=True,  # the terminal's Ctrl-C is for the driver alone
                env=environment,
            )

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def fileno(self) -> int:
        """The socket's number, for ``select``; readable when :meth:`receive` has something to take."""
        return self._socket.fileno()

    def is_alive(self) -> bool:
        """Whether the server runs."""
        return self._process.poll() is None

    def ready_within(self, seconds: float) -> bool:
        """Waits for the imports, at most this long; whether they are done.

        Raises:
            DeviceError: they failed, or have taken far too long by now.
        """
        if self._ready or wait([self._socket], seconds):
            self.wait_ready()
        elif time.monotonic() - self._began > START_SECONDS:
            self.wait_ready(0.0)
        return self._ready

    def wait_ready(self, timeout: float = START_SECONDS) -> None:
        """Returns when the imports are done.

        Raises:
            DeviceError: they failed, or took longer than ``timeout`` seconds.
        """
        if not self._ready:
            message = self._await("ready", timeout)
            if "error" in message:
                raise DeviceError(
                    f"The process that starts trials could not import what they need:\n{message['error']}"
                )
            self._ready = True

    def fork(self, channel: socket.socket) -> int:
        """Forks a child that gets ``channel`` (its own end of a socket pair), and returns its process id.

        Raises:
            DeviceError: the server is dead or does not answer.
        """
        self.wait_ready()
        self._forks = True
        try:
            socket.send_fds(self._socket, [json.dumps({"fork": True}).encode()], [channel.fileno()])
        except OSError as error:
            raise self._death() from error
        return int(self._await("forked", FORK_SECONDS)["forked"])

    def receive(self) -> None:
        """Takes what the server has to say about exits, without waiting. Its death counts as the death of all."""
        while wait([self._socket], 0):
            message = self._packet()
            if "exited" in message:
                self._exits[message["exited"]] = message["status"]

    def exit_status(self, pid: int) -> int | None:
        """How a child ended: its exit code, or minus the signal; None while it lives."""
        return self._exits.get(pid)

    def release(self, pid: int) -> None:
        """Lets the system forget an ended child; its process id may mean another process from here on."""
        self._exits.pop(pid, None)
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps({"release": pid}).encode())

    def close(self) -> None:
        """Ends the server and its children, and waits for that. Servers that were forked from it go on."""
        self._socket.close()  # the end of file tells it
        if not self._forks:  # it may still import, and has no children
            self._process.kill()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=None)
        self._errors.close()
        if self._room is not None:
            self._room.cleanup()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _await(self, key: str, timeout: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            if not wait([self._socket], max(0.0, deadline - time.monotonic())):
                raise DeviceError(
                    f"The process that starts trials (pid {self.pid}) did not answer within {timeout:.0f} s: "
                    "is this machine out of memory, or its disk very slow?"
                )
            message = self._packet()
            if key in message or "error" in message:
                return message
            self._exits[message["exited"]] = message["status"]

    def _packet(self) -> dict[str, Any]:
        try:
            packet = self._socket.recv(PACKET_BYTES)
        except ConnectionResetError:
            packet = b""
        if not packet:
            raise self._death()
        message: dict[str, Any] = json.loads(packet)
        return message

    def _death(self) -> DeviceError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=3)
        self._errors.seek(0)
        said = self._errors.read()[-2000:].decode(errors="replace").strip()
        return DeviceError(
            f"The process that starts trials (pid {self.pid}) has died with code {self._process.returncode}"
            + (f"; it last said:\n{said}" if said else ".")
        )


class _Lent:
    """A server that was forked from another one: not this process's child, so known by pid and start."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._started = started(pid)
        self.returncode: int | None = None  # nobody but its parent can know it

    def poll(self) -> int | None:
        """None while it lives."""
        return None if self._lives() else -1

    def wait(self, timeout: float | None) -> int:
        """Raises:
        subprocess.TimeoutExpired: it still lives.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while self._lives():
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.01)
        return -1

    def kill(self) -> None:
        if self._lives():
            os.kill(self.pid, signal.SIGKILL)

    def _lives(self) -> bool:
        return self._started is not None and started(self.pid) == self._started


def _key(settings: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Equal for servers that would have imported the same in the same surroundings."""
    content = [settings["preload"], settings["backbone"], environment["PYTHONPATH"], sys.executable]
    surroundings = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "LD_PRELOAD", *VARIABLES)
    content += [os.environ.get(name) for name in surroundings]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _borrow(address: str, key: str, driver: Any, channel: socket.socket, prints: int) -> _Lent | None:
    """A server forked from the one at this address; None where nobody answers or it has imported something else."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.settimeout(FORK_SECONDS)
        try:
            door.connect(address)
            socket.send_fds(door, [json.dumps({"like": key, "driver": driver}).encode()], [channel.fileno(), prints])
            answer = json.loads(door.recv(PACKET_BYTES) or b"{}")
        except (OSError, ValueError):
            return None
    return _Lent(answer["serving"]) if "serving" in answer else None


def _environment(search: Sequence[str]) -> dict[str, str]:
    """The server's: one thread in every library (a process with threads must not be forked), a fixed hash seed."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folder for folder in search if folder),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # torch then counts GPUs as NVML does, and a cap is held on the GPU that the trial runs on
        "CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # of pyarrow, which scikit-learn imports
    }
