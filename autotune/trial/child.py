"""What happens in a trial's process between the fork and its end."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import os
import pickle
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from autotune.outcome import Outcome
from autotune.trial.ancestry import Ancestor
from autotune.trial.request import Finished, Message, TrialRequest

#: What runs in a trial's process: it gets the request and a way to send messages, and returns the outcome.
Target = Callable[[TrialRequest, Callable[[Message], None]], Outcome]

WATCH_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def end_with_parent(parent: int) -> None:
    """Asks the kernel (Linux) to kill this process when ``parent``, which is its parent now, dies."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)


def adopt_orphans() -> None:
    """Has the kernel (Linux) make this process the parent of descendants whose own parent ends, which the system's first
    process gets else: so a descendant stays to be found, whatever session or group it has made for itself."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run_child(channel: int, *, server: int, driver: Ancestor | None) -> NoReturn:
    """Runs one trial in this freshly forked process and ends it.

    The channel's other end first sends a pickled ``(target, request)``, with target ``package.module:function``; the
    function gets ``(request, send)`` and returns the outcome. Exit codes: 0 after the outcome was sent, 1 when the
    target raised, else what the target gave to ``sys.exit``.
    """
    code = 1
    try:
        end_with_parent(server)
        adopt_orphans()  # they count as long as the trial runs; afterwards the server gets them
        _own_group_and_signals()
        connection = Connection(channel)
        target, request = pickle.loads(connection.recv_bytes())
        _write_to(request.log_file)
        threading.Thread(target=_watch, args=(channel, server, driver), name="ancestors", daemon=True).start()
        outcome = resolve_target(target)(request, connection.send)
        connection.send(Finished(outcome))
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    finally:
        # Whatever was raised, the fork must not return into the server's loop; the parent reads the log's last lines.
        with contextlib.suppress(OSError, ValueError):
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # no teardown of the imported libraries: it costs time and can hang


def resolve_target(target: str) -> Target:
    """The function that ``package.module:function`` names.

    Raises:
        ImportError: the module cannot be imported. AttributeError: it has no such function.
    """
    module, _, name = target.partition(":")
    function: Target = getattr(importlib.import_module(module), name)
    return function


def _own_group_and_signals() -> None:
    os.setpgid(0, 0)  # a trial is ended together with everything it has started
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write gigabytes into the working directory
    with contextlib.suppress(OSError):  # where memory runs out, the kernel should take a trial, not the driver
        Path("/proc/self/oom_score_adj").write_text("1000")


def _write_to(log_file: Path) -> None:
    """Sends everything this process and its libraries print to the trial's own file."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115 - the same
    faulthandler.enable(file=sys.stderr)


def _watch(channel: int, server: int, driver: Ancestor | None) -> None:
    """Ends this process when the parent has closed the channel, or the server or the driver is gone."""
    poll = select.poll()
    poll.register(channel, 0)  # only a hang-up is waited for: the parent sends nothing more
    while True:
        gone = bool(poll.poll(0)) or os.getppid() != server
        if gone or (driver is not None and not driver.is_alive()):
            os.killpg(0, signal.SIGKILL)
        time.sleep(WATCH_SECONDS)
