"""A plugin at whose import Ctrl-C comes where the interpreter drops what is raised."""

from __future__ import annotations

import signal


class Ends:
    """Its end is such a place."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


Ends()
