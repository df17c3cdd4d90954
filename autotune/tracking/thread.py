"""The thread that delivers in the background: when it tries, at once where somebody waits, else after growing pauses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0


class DeliveryThread:
    """Calls ``deliver`` in a thread of its own: after :meth:`wake`, at once for :meth:`wait_for_round`, and again, with
    growing pauses, while it returns False. No exception of ``deliver`` is caught here."""

    def __init__(self, deliver: Callable[[], bool]) -> None:
        self._deliver = deliver
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._asked, self._answered = 0, 0  # rounds of delivery that somebody waits for, and how many were made
        self._fresh = False
        self._closing = False

    @property
    def may_start(self) -> bool:
        """Whether it has neither been started nor closed."""
        return self._thread is None and not self._closing

    def start(self) -> None:
        """Once, where it :attr:`may_start`."""
        self._thread = threading.Thread(target=self._run, name="mlflow-tracker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something new to deliver; a pause after a failed round is kept."""
        with self._changed:
            self._fresh = True
            self._changed.notify_all()

    def wait_for_round(self, timeout_s: float) -> None:
        """Return when a round that began after this call has ended, or when the time is up."""
        with self._changed:
            self._asked += 1
            wanted = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._answered >= wanted, timeout=timeout_s)

    def close(self) -> None:
        """Begin no further round that nobody waits for. One that hangs is left to its end, as the thread is a daemon."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _run(self) -> None:
        pause, next_try = _FIRST_PAUSE_S, 0.0
        while True:
            with self._changed:
                if not self._due(next_try):
                    # without a try to wait for, only a notification wakes the thread
                    self._changed.wait(max(0.05, next_try - time.monotonic()) if next_try else None)
                if self._closing and self._asked == self._answered:
                    return
                if not self._due(next_try):
                    continue
                self._fresh = False
                asked = self._asked
            went_well = self._deliver()
            pause = _FIRST_PAUSE_S if went_well else min(2 * pause, _LONGEST_PAUSE_S)
            next_try = 0.0 if went_well else time.monotonic() + pause
            with self._changed:
                self._answered = asked
                self._changed.notify_all()

    def _due(self, next_try: float) -> bool:
        if self._closing or self._asked > self._answered:
            return True
        waiting = self._fresh or next_try > 0
        return waiting and time.monotonic() >= next_try
