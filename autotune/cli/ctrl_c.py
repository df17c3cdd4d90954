"""Ctrl-C that is not lost.

An interrupt that comes while the interpreter calls back (an object's end, the lock of an import) is printed and dropped by it,
and the command goes on. So each is noted too, and raised once more at the next step that the command tells of.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType


class _Noted:
    asked = False


_noted = _Noted()


def note_interrupts() -> None:
    """From now on. Where Ctrl-C is ignored, or somebody else's, that stays so."""
    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    _noted.asked = True
    raise KeyboardInterrupt


def raise_if_lost() -> None:
    """To be called between steps, where no interrupt can be on its way.

    Raises:
        KeyboardInterrupt: one has come, and nobody has ended the command for it.
    """
    if _noted.asked:
        _noted.asked = False
        raise KeyboardInterrupt
