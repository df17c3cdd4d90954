"""Folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def install_folder(ready: Path, target: Path, *, intact: Callable[[Path], bool]) -> None:
    """Renames a finished folder to its place, on the same file system.

    Where another process was faster and its folder is intact, that one stays; a broken one is replaced.

    Raises:
        OSError: the file system refuses.
    """
    for attempt in range(3):
        if intact(target):
            return
        if target.exists():
            shutil.rmtree(target)
        try:
            ready.rename(target)
            return
        except OSError:  # another process put its folder there between the two lines above
            if attempt == 2 or not target.exists():
                raise
