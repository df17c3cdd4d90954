"""Stand-ins for a trial's training, for tests of the machinery around it. ``settings["do"]`` says what happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotune.memory.meter import Meter
from autotune.memory.process import ProcessMeter
from autotune.outcome import EpochReport, MemoryFigures, Outcome, Status
from autotune.trial.fork_server import ForkServer
from autotune.trial.process import TrialProcess
from autotune.trial.request import Epoch, Finished, Message, Rehearsed, TrialRequest, Unread

STUB = f"{__name__}:execute"
NOTES: list[int] = []  # grows by one in each trial: a fresh process sees only its own


def execute(request: TrialRequest, send: Callable[[Message], None]) -> Outcome:
    """Does what the request's settings say, as a real trial would: messages, then an outcome or a bad end."""
    settings = request.settings
    NOTES.append(request.number)
    began = time.time()
    if settings.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    figures = MemoryFigures(
        allocated=1000,
        device=settings.get("device", 2000),
        reserved=settings.get("reserved"),
        meter=settings.get("meter", "the stub"),
    )
    if "unread" in settings:
        send(Unread(settings["unread"]))
    send(Rehearsed(figures))
    if "meets" in settings:
        _meet(Path(settings["meets"]), request.number)
    bad_end = _BAD_ENDS.get(settings.get("do", ""))
    for epoch in range(1, settings.get("epochs", 2) + 1):
        time.sleep(settings.get("epoch_seconds", 0.0))
        loss = float(settings.get("loss", 1 / epoch))
        send(Epoch(EpochReport(epoch=epoch, train_loss=loss, metrics={"accuracy": epoch / 10}, seconds=0.1)))
        if bad_end is not None:
            bad_end(settings)
    return Outcome(
        status=Status.COMPLETE,
        metric=0.5,
        metrics={"accuracy": 0.5},
        best_epoch=1,
        peak=figures,
        details={
            "pid": os.getpid(),
            "notes": list(NOTES),
            "threads": threading.active_count(),
            "environment": {name: os.environ.get(name) for name in settings.get("tells", ())},
            "began": began,
            "ended": time.time(),
            "seconds": 3.0,
        },
    )


def start_stub(
    on: ForkServer,
    folder: Path,
    number: int = 0,
    *,
    cap: int = 10**9,
    guard_meter: Meter | None = None,
    **settings: Any,
) -> TrialProcess:
    """A process of a stub trial, forked by this server; its guard reads this meter."""
    request = TrialRequest(
        number=number,
        backbone_source="",
        prepared_dir="",
        output_dir=str(folder),
        memory_cap=cap,
        metric="accuracy",
        predicted=MemoryFigures(allocated=1, device=3 * 10**8, meter="prediction"),
        settings=settings,
    )
    return TrialProcess(request, on, guard_meter or ProcessMeter(), target=STUB)


def outcome_of(process: TrialProcess) -> Outcome:
    """What became of it."""
    last = [*process.events()][-1]
    assert isinstance(last, Finished)
    return last.outcome


def _meet(folder: Path, number: int) -> None:
    """Waits for another trial that meets in this folder, which comes only if it runs at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / str(number)).touch()
    deadline = time.monotonic() + 120
    while len(list(folder.iterdir())) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError("no other trial came")
        time.sleep(0.02)


def _segfault(_: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _allocate(settings: dict[str, Any]) -> None:
    hoard = []
    for _ in range(settings["blocks"]):
        hoard.append(os.urandom(1) * settings["block_bytes"])
        time.sleep(0.01)
    time.sleep(settings.get("hold_seconds", 60))


def _raise(_: dict[str, Any]) -> None:
    sys.stdout.write("some words on the way\n")
    raise RuntimeError("the stub was told to fail: ünïcode 🙂")


def _close_channel(_: dict[str, Any]) -> None:
    for descriptor in range(3, 64):
        try:
            os.close(descriptor)
        except OSError:
            continue
    os._exit(0)


def _leave_helper(_: dict[str, Any]) -> None:
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    sys.stdout.write(f"helper {helper.pid}\n")


def _leave_daemon(settings: dict[str, Any]) -> None:
    """Starts a process that is nobody's child, in a session of its own, and holds as much as was asked for.

    It is there and has told its number before this returns: a trial that ends at once would end it while it is on its way.
    """
    code = (
        "import os, time\n(ready, there), number = os.pipe(), os.fork()\n"
        "if number: os.read(ready, 1), print('daemon', number, flush=True), os._exit(0)\n"
        f"os.setsid(), os.write(there, b'x')\nheld = bytearray(b'x') * {settings.get('block_bytes', 1)}\ntime.sleep(600)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    time.sleep(settings.get("hold_seconds", 0))


_BAD_ENDS: dict[str, Callable[[dict[str, Any]], None]] = {
    "segfault": _segfault,
    "sigkill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda _: sys.exit(3),
    "hard_exit": lambda _: os._exit(7),
    "allocate": _allocate,
    "raise": _raise,
    "close_channel": _close_channel,
    "hang": lambda _: time.sleep(600),
    "helper": _leave_helper,
    "daemon": _leave_daemon,
}
