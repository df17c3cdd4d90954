"""What the file system refuses, in words: which file, why, what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

_PERMISSION = "Give a place that you may write to, or change its permissions"
_ANOTHER = "Give another path"
_ROOM = "Free some space or give a place on another disk; nothing finished is lost, and `autotune resume` goes on with a study"
_REMEDIES = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: _PERMISSION,
    errno.ENOTDIR: f"{_ANOTHER}: a part of this one is a file and not a folder",
    errno.EEXIST: f"{_ANOTHER}: a file lies where a folder is needed",
    errno.EISDIR: f"{_ANOTHER}: a folder lies where a file is needed",
    errno.ENOENT: f"{_ANOTHER}, or make what is missing",
    errno.ENAMETOOLONG: "Give a shorter path or name",
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
}
_NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_SCRATCH = re.compile(r"\.[0-9a-f]{8}(\.|$)")  # see autotune.files.beside


def refusal_words(error: OSError) -> str | None:
    """One line about a file that the system would not read or write; None for an error of another kind, such as one of a
    network, which is no person's file."""
    remedy = _REMEDIES.get(error.errno or 0)
    if remedy is None or not (error.filename or error.errno in _NAMELESS):
        return None
    why = os.strerror(error.errno or 0)
    if not error.filename or not isinstance(error.filename, (str, bytes)):  # an open file's number tells nothing
        return f"A file could not be written: {why}. {remedy}."
    path = Path(os.fsdecode(error.filename))
    if _SCRATCH.match(path.name):
        path = path.parent
    done = "read" if error.errno == errno.ENOENT else "written"
    return f"{path} could not be {done}: {why}. {remedy}."
