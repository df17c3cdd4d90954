"""Files that are there whole or not at all: a reader or a kill at any moment never meets half of one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A path in the target's folder, with its ending, for writing to; renamed over the target when all went well."""
    scratch = target.with_name(f".{uuid4().hex[:8]}{target.suffix}")
    try:
        yield scratch
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(target: Path, text: str, *, private: bool = False) -> None:
    """Write UTF-8 text whole. private: into a file that its owner alone may read, from the first byte on."""
    with beside(target) as scratch:
        if private:
            scratch.touch(mode=0o600)
        scratch.write_text(text, encoding="utf-8")


def append_line(target: Path, line: str) -> None:
    """Append a line in one write, which the system does whole. It begins with a line break, in case a crash cut the last
    line; so readers pass over empty lines.

    Raises:
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, b"\n" + line.encode() + b"\n")
    finally:
        os.close(descriptor)


def json_lines(target: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines, as :func:`append_line` writes one. What is damaged is passed over: a line that a
    crash cut short, what is no object, and figures that are none (``NaN``, ``1e999``).

    Raises:
        OSError: the file is not there or cannot be read.
    """
    for line in target.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line, parse_float=_finite, parse_constant=_no_figure)
        except (ValueError, RecursionError):  # the latter: more brackets in each other than any writer makes
            continue
        if isinstance(found, dict):
            yield found


def _finite(text: str) -> float:
    figure = float(text)
    return figure if math.isfinite(figure) else _no_figure(text)


def _no_figure(text: str) -> NoReturn:
    raise ValueError(f"{text} is no finite figure.")
