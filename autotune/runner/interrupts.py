"""Ctrl-C and SIGTERM during a run: the first ends it in order, the second at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_TAKEN = (*_STOPPING, signal.SIGUSR1)  # Ray takes SIGTERM, Ray Tune SIGUSR1


class Interrupts:
    """``asked`` turns true with the first signal; each later one raises KeyboardInterrupt.

    The handler only notes it: it runs in the middle of anything, and what reacts must not.
    """

    asked = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal has come."""
        del number, frame
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Puts back afterwards whatever signal handlers are set inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _TAKEN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Notes signals instead of letting them end the process. Outside the main thread, where no handler can be set,
    nothing is ever noted."""
    noted = Interrupts()
    with handlers_kept():
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                signal.signal(number, noted.handle)
        yield noted
