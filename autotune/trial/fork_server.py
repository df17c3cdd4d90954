"""Starts trial processes in a fraction of a second: forks of a process that has its imports done."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

from autotune.errors import DeviceError
from autotune.trial.ancestry import Ancestor
from autotune.trial.server import PACKET_BYTES

#: What a trial imports, also what it imports on first use: then the baseline of its memory holds all of it. A missing
#: module stops the server from starting.
PRELOAD: tuple[str, ...] = ("autotune.trial.preload", "sklearn.metrics", "scipy.stats", "peft.tuners.lora.layer")
START_SECONDS = 300.0
FORK_SECONDS = 30.0


class ForkServer:
    """A fork server that belongs to this process.

    It starts at once and in the background; the first fork waits for its imports. It ends by :meth:`close`, and by
    itself when this process or the driver dies, together with every trial it has started. Not for several threads.

    preload: modules to import first. backbone: the source of the backbone that trials will load. path: where modules
    are looked for; this process's own ``sys.path`` by default.
    """

    def __init__(
        self,
        *,
        preload: Sequence[str] = PRELOAD,
        backbone: str | None = None,
        driver: Ancestor | None = None,
        path: Sequence[str] | None = None,
    ) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self._exits: dict[int, int] = {}
        self._ready = False
        self._began = time.monotonic()
        settings = {
            "preload": list(preload),
            "backbone": backbone,
            "driver": asdict(driver) if driver is not None else None,
            "parent": os.getpid(),
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "autotune.trial.server", str(theirs.fileno()), json.dumps(settings)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                start_new_session=True,  # the terminal's Ctrl-C is for the driver alone
                env=_environment(sys.path if path is None else path),
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
        """Ends the server and its children, and waits for that."""
        self._socket.close()  # the end of file tells it
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

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
