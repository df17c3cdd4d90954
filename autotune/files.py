"""Files that are there whole or not at all: a reader or a kill at any moment never meets half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
