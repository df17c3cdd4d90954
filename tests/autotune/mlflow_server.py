"""A real ``mlflow server`` that a test starts, ends and starts again; and a PostgreSQL of its own where there is one."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

START_SECONDS = 120.0
"""A server imports for seconds, on a busy machine for many."""


@contextlib.contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server in this process that answers by ``handler``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """``mlflow server`` on 127.0.0.1 over a store, as a person starts it; a context manager that leaves no process."""

    def __init__(self, store: str, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
        self._command += [
            "--artifacts-destination",
            str(folder / "served"),
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self._environment = {**plain, **quiet, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "server.log"
        with log.open("ab") as written:
            self._process = subprocess.Popen(
                self._command,
                stdout=written,
                stderr=written,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not answers(f"{self.address}/health"):
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        return self

    def stop(self) -> None:
        """End it by SIGTERM to its process, as an administrator does; whatever it leaves behind is killed."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=10)
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()


def answers(url: str) -> bool:
    """Whether an address answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


class Postgres:
    """A PostgreSQL of a test's own on 127.0.0.1; skips the test where there is none. A context manager."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("psycopg", reason="needs psycopg to reach PostgreSQL")
        binaries = _postgres_binaries()
        if binaries is None:
            pytest.skip("needs PostgreSQL's initdb and postgres")
        self.port = free_port()
        self.address = f"postgresql://team:geheim@127.0.0.1:{self.port}/postgres"
        self._data = folder / "postgres"
        self._data.mkdir(mode=0o700)
        self._user = _other_user(self._data)
        self._command = [str(binaries / "postgres"), "-D", str(self._data), "-p", str(self.port)]
        self._command += ["-h", "127.0.0.1", "-k", "", "-F"]
        self._process: subprocess.Popen[bytes] | None = None
        made = [
            str(binaries / "initdb"),
            "-D",
            str(self._data),
            "-U",
            "team",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run(made, check=True, capture_output=True, cwd="/", timeout=120, **self._user)

    def start(self) -> Self:
        """Start it and wait until it answers."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet, cwd="/", **self._user)
        import psycopg

        end = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, "PostgreSQL ended by itself"
            try:
                psycopg.connect(self.address, connect_timeout=5).close()
            except psycopg.OperationalError:
                assert time.monotonic() < end, "PostgreSQL does not answer"
                time.sleep(0.1)
            else:
                return self

    def stop(self) -> None:
        """End it at once, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=30)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()


def _other_user(data: Path) -> dict[str, Any]:
    """As whom PostgreSQL runs: it refuses root. That user is let into the folder."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres here")
    os.chown(data, account.pw_uid, account.pw_gid)
    for parent in data.parents:
        if not parent.stat().st_mode & 0o001:  # pytest's own folders
            parent.chmod(parent.stat().st_mode | 0o011)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _postgres_binaries() -> Path | None:
    on_path = shutil.which("initdb")
    places = [Path(on_path).resolve().parent] if on_path else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)
