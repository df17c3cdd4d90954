"""Watches what a process holds and ends it, and only it, when that goes over the cap.

The second line of defence (the first makes the allocation itself fail: :mod:`autotune.memory.limit`, or the allocator's
fraction on a GPU) and the record of the peak.
"""

from __future__ import annotations

import contextlib
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


class Guard:
    """Reads a meter for one process every ``interval_s``, from a thread of its own; use it as a context manager.

    peak_bytes: the highest reading (between two readings a peak may pass unseen). peak_source: where the meter had it
    from. readings: how many there were. over_time: the readings, thinned; seconds count from the guard's making. breached: the
    process went over the cap and was told to end. blind: the meter failed for ``blind_after_s`` without a break; a cap that nobody can read
    is a cap that nobody holds, so the process was told to end too. reason: in words, why it was; "" if it was not.

    It ends the process with SIGTERM, and with SIGKILL once ``grace_s`` is over or it has grown further. The process is
    held by a descriptor (or known by pid and start time where there are none), so a pid that was given
    to another process meanwhile is never touched. A process that vanishes ends the watch and is no error.

    on_breach: called once, in the guard's thread, as soon as the process has been told to end.

    Raises:
        ValueError: the pid is this process's own, or cap or interval are not above zero.
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
        self._thread = threading.Thread(target=self._watch, name=f"memory-guard-{pid}", daemon=True)

    def __enter__(self) -> Guard:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def silent_s(self) -> float:
        """For how many seconds the meter has not come back from a reading; 0.0 when the watch is over."""
        return time.monotonic() - self._answered if self._thread.is_alive() else 0.0

    def close(self) -> None:
        """End the watch; a process that was told to end is still waited for, ``grace_s`` at most. A meter that hangs
        (a broken driver) is left to its thread, which ends with this process."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(self._grace_s + CLOSE_SECONDS)
        self._target.close()

    def _watch(self) -> None:
        failing_since: float | None = None
        while True:
            due = time.monotonic() + self._interval_s  # from reading to reading: what one takes is not added
            try:
                held = self.meter.device_bytes(self.pid)
            except DeviceError as error:
                self._answered = now = time.monotonic()
                failing_since = now if failing_since is None else failing_since
                if now - failing_since >= self._blind_after_s:
                    self._end_blind(error)
                    return
            else:
                failing_since = None
                self._answered = time.monotonic()
                self.readings += 1
                if held is not None and self._target.alive():
                    self._note(held)
                    if held > self.cap_bytes:
                        self._end_breach(held)
                        return
            if not self._target.alive() or self._stop.wait(max(0.0, due - time.monotonic())):
                return

    def _note(self, held: int) -> None:
        self.over_time.note(round(time.monotonic() - self._began, 3), held)
        if held > self.peak_bytes:
            self.peak_bytes, self.peak_source = held, self.meter.source

    def _end_breach(self, held: int) -> None:
        self.reason = (
            f"The trial's process held {format_bytes(held)} of the device, over the cap of {format_bytes(self.cap_bytes)} "
            f"(read from: {self.meter.source}), and was ended."
        )
        self.breached = True
        self._end(held)

    def _end_blind(self, error: DeviceError) -> None:
        self.reason = (
            f"The memory meter {self.meter.name!r} failed for {self._blind_after_s:g} s ({error}), so the cap of "
            f"{format_bytes(self.cap_bytes)} could no longer be held, and the trial's process was ended."
        )
        self.blind = True
        self._end(None)

    def _end(self, held: int | None) -> None:
        self._target.send(signal.SIGTERM)
        if self._on_breach is not None:
            self._on_breach(self)
        deadline = time.monotonic() + self._grace_s
        while self._target.alive() and time.monotonic() < deadline and not self._grew(held):
            time.sleep(min(self._interval_s, 0.02))
        self._target.send(getattr(signal, "SIGKILL", signal.SIGTERM))

    def _grew(self, held: int | None) -> bool:
        """Whether the process went on allocating after it was told to end."""
        with contextlib.suppress(DeviceError):
            now = self.meter.device_bytes(self.pid)
            if now is not None and self._target.alive():
                self._note(now)
                return held is not None and now > held + held // 50
        return False


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
        if self._descriptor is not None and started(pid) != self._started:
            self.close()  # another process took the pid between the two readings: ours is gone
            self._started = None

    def alive(self) -> bool:
        return self._started is not None and started(self._pid) == self._started

    def send(self, number: signal.Signals) -> None:
        """Signal the process; nothing happens if it is gone."""
        with self._lock:
            if not self.alive():
                return
            with contextlib.suppress(ProcessLookupError):
                if self._descriptor is not None:
                    signal.pidfd_send_signal(self._descriptor, number)
                else:
                    os.kill(self._pid, number)

    def close(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
