"""Ray, started for one run and gone with it: quiet, small, its files in a folder of its own."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from autotune.errors import DeviceError
from autotune.runner.reaper import Reaper
from autotune.runner.shares import Machine, usable_cores

#: Ray's smallest object store is 75 MiB; only small messages pass through it here.
OBJECT_STORE_BYTES = 80 * 2**20
CONNECT_SECONDS = 30

#: Read by Ray when it is imported, when it starts, or in its workers.
SETTINGS: dict[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # it would kill workers; each trial has a guard of its own
    "RAY_prestart_worker_first_driver": "0",  # idle workers of 100 MB each
    "RAY_DEDUP_LOGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean in a trial what they mean here
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # its default is about to change, which Ray warns of
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the run has its own
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Ray's snapshot is never read: the study's record is the truth
    "TUNE_WARN_THRESHOLD_S": "10",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

#: What ``ray.init`` sets in the environment by itself.
SET_BY_RAY = ("RAY_AUTH_MODE", "PYTHONBREAKPOINT")


@contextlib.contextmanager
def ray_environment(places: int | None = None) -> Iterator[None]:
    """Ray's settings in the environment, all put back afterwards; its own deprecation warnings are not the user's."""
    settings = dict(SETTINGS)
    if places is not None:
        settings["TUNE_MAX_PENDING_TRIALS_PG"] = str(places)
    before = {name: os.environ.get(name) for name in (*settings, *SET_BY_RAY)}
    os.environ.update(settings)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning):
                warnings.filterwarnings(
                    "ignore", category=category, module=r"(ray|google|pkg_resources|tensorboardX)(\.|$)"
                )
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class RayGone(BaseException):
    """Ray is dead. No ``Exception``, since Ray Tune would first ask the dead one, for minutes, to clean up."""


@dataclass(frozen=True)
class RaySession:
    """folder: temporary, goes with Ray. places: trials at a time at most. budgets: how many whole budgets there are.
    servers: Ray's own processes that this process has started; without one of them Ray is dead, and does not say so."""

    folder: Path
    places: int
    budgets: int
    servers: tuple[psutil.Process, ...] = ()

    def check(self) -> None:
        """Raises:
        RayGone: one of Ray's servers has died.
        """
        for server in self.servers:
            try:
                alive = server.status() != psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                alive = False
            if not alive:
                raise RayGone(f"its process {server.pid} has died.")


@contextlib.contextmanager
def ray_session(machine: Machine, address: str | None) -> Iterator[RaySession]:
    """Ray, running and connected.

    Raises:
        DeviceError: Ray could not be started or reached, or has less than one trial needs.
    """
    # Ray puts sockets in there, and a socket's path may have 107 bytes.
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="atune-", dir="/tmp" if len(base) > 30 and Path("/tmp").is_dir() else None))
    reaper = Reaper(folder)
    with ray_environment(), _own_token(address), _silence():
        import ray

        if ray.is_initialized():
            reaper.close()
            raise DeviceError("Ray runs in this process already: call ray.shutdown() before a study is run.")
        try:
            before = set(psutil.Process().children(recursive=True))
            _start(ray, machine, address, folder)
            local = [process for process in psutil.Process().children(recursive=True) if process not in before]
            reaper.mark([process.pid for process in local])
            servers = tuple(process for process in local if process.name() in ("raylet", "gcs_server"))
            _check_capacity(ray, machine)
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            places = sum(machine.places(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes)
            yield RaySession(
                folder, min(places, machine.max_concurrent or places), sum(map(machine.budgets, nodes)), servers
            )
        finally:
            try:
                with _nothing_collected():
                    ray.shutdown()
            finally:  # also when Ctrl-C cuts that short: the reaper ends what is left
                logging.getLogger("ray").handlers.clear()
                reaper.close()


@contextlib.contextmanager
def _nothing_collected() -> Iterator[None]:
    """What is garbage by now goes first, and no garbage is collected inside.

    Ray ends the whole process, with one line and exit code 1, when a thread lets go of a reference to one of its objects while it
    shuts down; and whichever thread happens to collect garbage then (one that writes to MLflow, say) lets go of what Ray Tune left.
    """
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _own_token(address: str | None) -> Iterator[None]:
    """Ray here asks for a token that this session alone knows; left to itself, it would write one to the home folder."""
    if address is not None or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        yield
        return
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]  # compiled, and without stubs

    tokens = AuthenticationTokenLoader.instance()
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    tokens.reset_cache()
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN"]
        tokens.reset_cache()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Ray prints what its servers complain of, whatever it was told of logging; here it goes to a log."""
    from ray._private import worker

    printed = worker.print_to_stdstream
    worker.print_to_stdstream = lambda data, *_, **__: logging.getLogger("autotune.ray").info("%s", data.get("lines"))
    try:
        yield
    finally:
        worker.print_to_stdstream = printed


def _start(ray: Any, machine: Machine, address: str | None, folder: Path) -> None:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.CRITICAL}
    with _patience(address):
        try:
            if address is None:
                ray.init(
                    address="local",  # not one that RAY_ADDRESS names or that happens to run here
                    num_cpus=usable_cores(),
                    object_store_memory=OBJECT_STORE_BYTES,
                    _memory=machine.budget,
                    _temp_dir=str(folder / "ray"),
                    **quiet,
                )
            else:
                knock(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (RuntimeError, ValueError, OSError, AssertionError, ray.exceptions.RayError) as error:
            if address is not None:
                raise DeviceError(
                    f"No Ray cluster answers at {address!r}: {error}. Give the address that 'ray start --head' printed, "
                    "as host:port, or leave --ray-address out to use this machine alone."
                ) from error
            raise DeviceError(
                f"Ray could not be started on this machine: {error}. It needs free memory of about 500 MB, room in "
                f"{folder.parent} and permission to listen on local ports."
            ) from error


def knock(address: str) -> None:
    """Ray itself waits five minutes for a cluster that is not there.

    Raises:
        ValueError: the address is of no kind that can be used. OSError: nobody listens there.
    """
    if address == "auto":
        return  # Ray knows where it started one on this machine
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ValueError("it is not of the form host:port (and trials cannot be driven through the Ray client, ray://)")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextlib.contextmanager
def _patience(address: str | None) -> Iterator[None]:
    """Says something when Ray takes long, since it can hang without a word."""
    where = f"the Ray cluster at {address}" if address is not None else "Ray to start on this machine"
    text = f"Still waiting for {where} ({CONNECT_SECONDS} s so far). Ctrl-C gives up."
    timer = threading.Timer(CONNECT_SECONDS, lambda: logging.getLogger("autotune").warning(text))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_capacity(ray: Any, machine: Machine) -> None:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needed = machine.resources(1.0)
    if any(all(node.get(name, 0.0) >= amount for name, amount in needed.items()) for node in nodes):
        return
    wanted = ", ".join(f"{amount:g} {name}" for name, amount in needed.items())
    offered = "; ".join(", ".join(f"{node.get(name, 0.0):g} {name}" for name in needed) for node in nodes)
    raise DeviceError(
        f"No machine of Ray has what one trial needs: {wanted}. There are: {offered or 'none'}. "
        "Ask for fewer threads or a lower memory cap, or start Ray with more resources."
    )
