"""The driver's own store is filled: by a process of its own, heard, held to a cap, and ended when its time is over."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from autotune.features.errand import Errand, Stored
from autotune.memory.guard import Guard
from autotune.memory.meter import Meter
from autotune.units import count_words, format_duration

GRACE_SECONDS = 5.0
"""From the request to end to the kill."""
EXIT_SECONDS = 120.0
"""From its last word to the kill: it only lets go of what it holds, but a busy machine takes its time."""
FEWER = 4
"""By this the rows of a pass are divided where the cap has no room for so many."""
_CHUNK = 1 << 16
_POLL_SECONDS = 0.5


def run_worker(
    errand: Errand,
    on_message: Callable[[dict[str, Any]], None],
    *,
    cap: int,
    meter: Meter,
    seconds: float | None = None,
) -> Stored | str:
    """Let a process of its own do the errand, and end it over the cap and after ``seconds``; what it stored, or why it could
    not, in words."""
    until = None if seconds is None else time.monotonic() + seconds
    with Filling(errand, cap=cap, meter=meter) as filling:
        while filling.answer is None:
            for message in filling.poll(_POLL_SECONDS):
                on_message(message)
            if until is not None and seconds is not None and time.monotonic() > until:
                filling.close(
                    f"it took longer than {format_duration(seconds)}, which is half of what was left of the time budget"
                )
        answer = filling.answer
    return answer if isinstance(answer, str) else Stored.from_dict(answer)


class Filling:
    """:mod:`autotune.features.worker` at work on an errand, ended where it holds more than the cap. Use it as a context manager,
    or call :meth:`close`, which ends it. Nothing here raises: whatever goes wrong is the answer, in words.

    Its messages come through a pipe of their own: whatever libraries print is none of them. Where the cap ends it while it
    computes, it is started again with fewer rows a pass; what it had finished by then is not computed anew.
    """

    def __init__(self, errand: Errand, *, cap: int, meter: Meter) -> None:
        """cap: bytes."""
        self._errand, self._cap, self._meter = errand, cap, meter
        self._stack = ExitStack()
        self._child: subprocess.Popen[bytes] | None = None
        self._answer: dict[str, Any] | str | None = None
        self._begin()

    def _begin(self) -> None:
        self._rest = b""
        self._last: dict[str, Any] = {}
        self._computing = False
        try:
            path = os.pathsep.join(folder for folder in sys.path if folder)
            self._start({**os.environ, "PYTHONPATH": path})
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no thread can be started to watch it
            self._stack.close()
            self._answer = f"the process that computes them cannot be started ({error})"
        except BaseException:
            self.close()
            raise

    def _start(self, environment: dict[str, str]) -> None:
        self._complaints = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        self._channel, writing = os.pipe()
        self._stack.callback(os.close, self._channel)
        with open(writing, "wb"):  # the child's copy is the only one left, so its end is the channel's
            self._child = child = self._stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "autotune.features.worker", str(writing)],
                    stdin=subprocess.PIPE,
                    stdout=self._complaints,
                    stderr=self._complaints,
                    env=environment,
                    pass_fds=(writing,),
                )
            )
        self._guard = self._stack.enter_context(Guard(child.pid, self._cap, self._meter))
        assert child.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already: that shows when it is polled
            child.stdin.write(self._errand.to_json().encode() + b"\n")
            child.stdin.close()

    def __enter__(self) -> Filling:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def poll(self, seconds: float) -> list[dict[str, Any]]:
        """What it says within this time, without its last word (:attr:`answer`)."""
        said: list[dict[str, Any]] = []
        until = time.monotonic() + seconds
        if self._answer is None and (unheld := self._guard.unheld()):
            self.close(f"{unheld}, so the cap could no longer be held, and the process that computes them was ended")
        while self._answer is None and not said:
            ready, _, _ = select.select([self._channel], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                break
            chunk = os.read(self._channel, _CHUNK)
            if not chunk:
                said += self._finish(self._ended())
                break
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            said += [message for line in lines if (message := self._heard(line)) is not None]
        return said

    def _finish(self, answer: dict[str, Any] | str) -> list[dict[str, Any]]:
        """That was its answer; or it begins again with fewer rows, and what is said of that."""
        self._stack.close()
        if not (self._guard.breached and self._computing and self._errand.rows > 1):
            self._answer = answer
            return []
        self._errand = replace(self._errand, rows=max(1, self._errand.rows // FEWER))
        self._begin()
        rows = count_words(self._errand.rows, "row")
        return [{"note": f"{answer} Hidden states are computed again, {rows} at a time."}]

    def _heard(self, line: bytes) -> dict[str, Any] | None:
        try:
            message = json.loads(line.decode(errors="replace"))
        except ValueError:  # cut off, as its writer was ended
            return None
        if not isinstance(message, dict) or "stored" in message or "failed" in message:
            self._last = message if isinstance(message, dict) else self._last
            return None
        if "computing" in message:
            self._computing = True
            return None
        return message

    @property
    def answer(self) -> dict[str, Any] | str | None:
        """What it stored (:class:`autotune.features.errand.Stored` as a dictionary), or why it could not, in words; None while it
        is at work."""
        return self._answer

    def _ended(self) -> dict[str, Any] | str:
        """It has closed its channel."""
        assert self._child is not None
        try:
            code = self._child.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            code = self._child.wait()
        if "stored" in self._last and code == 0:
            return dict(self._last["stored"])
        if self._guard.reason:
            return re.sub("(T|t)he trial's process", r"\1he process that computes them", self._guard.reason)
        if code < 0:
            return f"the process that computes them was ended by signal {-code}"
        if "failed" in self._last:
            return str(self._last["failed"])
        self._complaints.seek(0)
        said = self._complaints.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else f"the process that computes them ended with exit code {code}"

    def close(self, why: str = "it was ended before it was done") -> None:
        """End it where it is still at work; ``why`` is its answer then. Harmless a second time."""
        if self._answer is None:
            self._answer = why
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
        self._stack.close()
