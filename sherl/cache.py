"""Where fetched data is kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    """``$AUTOTUNE_CACHE``, or ``autotune`` in the platform's folder for caches. It need not exist."""
    given = os.environ.get("AUTOTUNE_CACHE")
    if given:
        return Path(given).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "autotune" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "autotune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autotune"
