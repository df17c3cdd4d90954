"""Where a command prints."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def replace_unknown_signs() -> None:
    """A sign that standard output or error cannot write, such as one of a study's name on a terminal without UTF-8, becomes a question
    mark: a listener that fails on one would end a study."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def console(*, stderr: bool = False, soft_wrap: bool = True, width: int | None = None) -> Console:
    """Standard output or error, see :func:`replace_unknown_signs`."""
    from rich.console import Console

    replace_unknown_signs()
    return Console(stderr=stderr, highlight=False, soft_wrap=soft_wrap, width=width)
