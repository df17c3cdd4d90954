"""The process that fills a store, started, heard and held to the cap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, TextIO

from autotune.features.errand import Errand, Stored
from autotune.memory.guard import Guard
from autotune.memory.meter import Meter


def run_worker(errand: Errand, on_message: Callable[[dict[str, Any]], None], *, cap: int, meter: Meter) -> Stored | str:
    """Let a process of its own do the errand, and end it over the cap; what it stored, or why it could not, in words.

    Its messages come through a pipe of their own: whatever libraries print is none of them.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with ExitStack() as stack:
        try:
            complaints = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            reading, writing = os.pipe()
            channel = stack.enter_context(open(reading, encoding="utf-8", errors="replace"))
            with open(writing, "wb"):  # the child's copy is the only one left, so its end is the channel's
                child = stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-m", "autotune.features.worker", str(writing)],
                        stdin=subprocess.PIPE,
                        stdout=complaints,
                        stderr=complaints,
                        text=True,
                        env=environment,
                        pass_fds=(writing,),
                    )
                )
        except (OSError, ValueError) as error:
            return f"the process that computes them cannot be started ({error})"
        guard = stack.enter_context(Guard(child.pid, cap, meter))
        try:
            last = _last_message(child, errand, channel, on_message)
            child.wait()
        except BaseException:
            child.terminate()
            raise
        complaints.seek(0)
        said = complaints.read().strip().splitlines()
    if "stored" in last and child.returncode == 0:
        return Stored.from_dict(last["stored"])
    if guard.reason:
        return guard.reason.replace("The trial's process", "The process that computes them")
    if child.returncode < 0:
        return f"the process that computes them was ended by signal {-child.returncode}"
    if "failed" in last:
        return str(last["failed"])
    return said[-1] if said else f"the process that computes them ended with exit code {child.returncode}"


def _last_message(
    child: subprocess.Popen[str], errand: Errand, channel: TextIO, on_message: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Hand on what the process says until it has stored or failed; that message, or {} where it ends without."""
    assert child.stdin is not None
    with suppress(OSError):  # it has ended already: that shows below
        child.stdin.write(errand.to_json() + "\n")
        child.stdin.close()
    while True:
        try:
            line = channel.readline()
        except OSError as error:
            child.terminate()
            return {"failed": f"the messages of the process that computes them cannot be read ({error})"}
        if not line:
            return {}
        try:
            message = json.loads(line)
        except ValueError:  # cut off, as its writer was ended
            continue
        if "stored" in message or "failed" in message:
            return dict(message)
        on_message(message)
