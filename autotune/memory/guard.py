"""Watches what a process holds and ends it, and only it, when that goes over the cap.

The second line of defence (the first makes the allocation itself fail: :mod:`autotune.memory.limit`, or the allocator's
fraction on a GPU) and the record of the peak.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable

from autotune.errors import DeviceError
from autotune.memory.meter import Meter
from autotune.memory.timeline import Timeline
from autotune.processes import started
from autotune.units import format_bytes

#: How long the end of a watch waits for a meter that is being read.
CLOSE_SECONDS = 5.0
#: A meter that does not come back from a reading for so long holds no cap any more.
HANGING_SECONDS = 15.0
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class Guard:
    """Reads a meter for one process every ``interval_s``, from a thread of its own; use it as a context manager.

    peak_bytes: the highest reading (between two readings a peak may pass unseen). peak_source: where the meter had it
    from. readings: how many there were. over_time: the readings, thinned; seconds count from the guard's making. breached: the
    process went over the cap and was told to end. blind: the meter failed (raised whatever it may be) for ``blind_after_s`` without
    a break, or the watch itself did; a cap that nobody can read is a cap that nobody holds, so the process was told to end too.
    reason: in words, why it was; "" if it was not.

    It ends the process with SIGTERM, and with SIGKILL once ``grace_s`` is over or it has grown further. The process is
    held by a descriptor (or known by pid and start time where there are none), so a pid that was given
    to another process meanwhile is never touched. A process that vanishes ends the watch and is no error.

    on_breach: called once, in the guard's thread, as soon as the process has been told to end.

    Raises:
        ValueError: the pid is this process's own, or cap or interval are not above zero.
        OSError: the process cannot be looked up. RuntimeError, on entering: no thread can be started.
    """

    def __init__(
        self,
        pid: int,
        cap_bytes: int,
        meter: Meter,
        interval_s: float = 0.04,
        on_breach: Callable[[Guard], None] | None = None,
        *,
        grace_s: float = 1.0,
        blind_after_s: float = 5.0,
    ) -> None:
        if pid == os.getpid():
            raise ValueError(f"Process {pid} is this one; a guard watches another process.")
        if cap_bytes <= 0 or interval_s <= 0:
            raise ValueError(f"Cap and interval must be above zero, {cap_bytes} and {interval_s} were given.")
        self.pid = pid
        self.cap_bytes = cap_bytes
        self.meter = meter
        self.peak_bytes = 0
        self.peak_source = meter.source
        self.readings = 0
        self.over_time = Timeline()
        self._began = time.monotonic()
        self.breached = False
        self.blind = False
        self.reason = ""
        self._interval_s, self._grace_s, self._blind_after_s = interval_s, grace_s, blind_after_s
        self._on_breach = on_breach
        self._target = _Target(pid)
        self._stop = threading.Event()
        self._answered = time.monotonic()
        self._vanished = False
        self._thread = threading.Thread(target=self._run, name=f"memory-guard-{pid}", daemon=True)

    def __enter__(self) -> Guard:
        try:
            self._thread.start()
        except RuntimeError:
            self._target.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def silent_s(self) -> float:
        """For how many seconds the meter has not come back from a reading. 0.0 when the watch is over: closed, the process gone
        or told to end. Infinite when the watch's thread has died without a word, so that nobody watches."""
        over = self._vanished or self.breached or self.blind
        if over or self._stop.is_set() or self._thread.ident is None:
            return 0.0
        return time.monotonic() - self._answered if self._thread.is_alive() else math.inf

    def unheld(self) -> str:
        """Why nobody holds the cap any more though the watch is not over: its meter hangs, or its thread has died; "" while it
        is held. The guard cannot end the process then: whoever asks has to."""
        silent = self.silent_s
        if silent == math.inf:
            return "the watch over its memory has died"
        if silent > HANGING_SECONDS:
            return f"the memory meter {self.meter.name!r} has not answered for {HANGING_SECONDS:g} s"
        return ""

    def close(self) -> None:
        """End the watch; a process that was told to end is still waited for, ``grace_s`` at most. A meter that hangs
        (a broken driver) is left to its thread, which ends with this process."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._grace_s + CLOSE_SECONDS)
        self._target.close()

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:
            # Whatever it was: without a watch there is no cap, so the process must not go on. Then the error is shown.
            if not (self.breached or self.blind):
                self._end_blind(f"The watch over the process's memory ended with {_words(error)}")
            raise

    def _watch(self) -> None:
        failing_since: float | None = None
        while True:
            due = time.monotonic() + self._interval_s  # from reading to reading: what one takes is not added
            try:
                held = self._reading()
            except Exception as error:  # noqa: BLE001 - a cap that cannot be read is not held, whatever the reason
                self._answered = now = time.monotonic()
                failing_since = now if failing_since is None else failing_since
                if now - failing_since >= self._blind_after_s:
                    self._end_blind(
                        f"The memory meter {self.meter.name!r} failed for {self._blind_after_s:g} s ({_words(error)})"
                    )
                    return
            else:
                failing_since = None
                self._answered = time.monotonic()
                self.readings += 1
                if held is not None and held > self.cap_bytes:
                    self._end_breach(held)
                    return
            if self._vanished or self._stop.wait(max(0.0, due - time.monotonic())):
                return

    def _reading(self) -> int | None:
        """What the process holds now, noted; None while it holds nothing, and once it is gone. Raises what the meter and the
        look at the process raise."""
        held = self.meter.device_bytes(self.pid)
        self._vanished = not self._target.alive()  # only now: a reading of a pid that was given away counts for nothing
        if held is None or self._vanished:
            return None
        self.over_time.note(round(time.monotonic() - self._began, 3), held)
        if held > self.peak_bytes:
            self.peak_bytes, self.peak_source = held, self.meter.source
        return held

    def _end_breach(self, held: int) -> None:
        self.reason = (
            f"The trial's process held {format_bytes(held)} of the device, over the cap of {format_bytes(self.cap_bytes)} "
            f"(read from: {self.meter.source}), and was ended."
        )
        self.breached = True
        self._end(held)

    def _end_blind(self, why: str) -> None:
        self.reason = (
            f"{why}, so the cap of {format_bytes(self.cap_bytes)} could no longer be held, and the trial's process was "
            "ended."
        )
        self.blind = True
        self._end(None)

    def _end(self, held: int | None) -> None:
        deadline = time.monotonic() + self._grace_s
        last = threading.Timer(self._grace_s, self._target.send, (_KILL,))  # the loop asks the meter, which may hang
        last.daemon = True
        try:
            self._target.send(signal.SIGTERM)
            with contextlib.suppress(RuntimeError):  # no thread can be started any more: the loop has to do
                last.start()
            if self._on_breach is not None:
                self._on_breach(self)
            while not self._target.gone() and time.monotonic() < deadline and not self._grew(held):
                time.sleep(min(self._interval_s, 0.02))
        finally:
            while not self._target.send(_KILL) and not self._stop.wait(self._interval_s):
                continue
            last.cancel()

    def _grew(self, held: int | None) -> bool:
        """Whether the process went on allocating after it was told to end."""
        try:
            now = self._reading()
        except Exception:  # noqa: BLE001 - a reading that fails says nothing; the end comes all the same
            return False
        return now is not None and held is not None and now > held + held // 50


def _words(error: BaseException) -> str:
    """An error as a message says it; a DeviceError's words stand for themselves."""
    return str(error) if isinstance(error, DeviceError) else f"{type(error).__name__}: {error}"


class _Target:
    """One process, beyond doubt: by a descriptor where the system has them, else by pid and start time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._lock = threading.Lock()
        self._started = started(pid)
        self._descriptor: int | None = None
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # gone already, or forbidden here: start times serve as well
                self._descriptor = os.pidfd_open(pid)
        try:
            same = started(pid) == self._started
        except OSError:
            self.close()
            raise
        if self._descriptor is not None and not same:
            self.close()  # another process took the pid between the two readings: ours is gone
            self._started = None

    def alive(self) -> bool:
        """Raises:
        OSError: it cannot be looked up at the moment.
        """
        return self._started is not None and started(self._pid) == self._started

    def gone(self) -> bool:
        """Whether it is known to be gone."""
        try:
            return not self.alive()
        except OSError:
            return False

    def send(self, number: signal.Signals) -> bool:
        """Signal the process; nothing happens if it is gone. False where it cannot be told from others at the moment, or
        the system refuses: then it was not signalled."""
        with self._lock:
            try:
                if self._descriptor is not None:  # another process cannot be met
                    signal.pidfd_send_signal(self._descriptor, number)
                elif self.alive():
                    os.kill(self._pid, number)
            except ProcessLookupError:
                return True
            except OSError:
                return False
            return True

    def close(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
