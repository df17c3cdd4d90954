"""What is known of a file of values before it is opened: its manifest, and whether the two are whole."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.features.marks import VALUES, parse

FORMAT, FORMAT_VERSION = "autotune features", 1
_LARGEST_JSON = 1 << 20
"""Bytes; what is larger is none of the store's."""
HANDOVER_SECONDS = 300.0
"""How long files stay for whoever is about to open them: a process that starts, and imports torch."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a file of values before it is opened.

    path: of the manifest. rows, shape, dtype, ragged: see :class:`autotune.features.layout.Layout`. items: tokens or rows.
    value_bytes, file_bytes: sizes. index_checksum: xxh3 (128 bits) of what stands behind the values. lengths_digest: equal
    for files whose rows have equal lengths, "" where the shape is fixed.
    """

    path: Path
    rows: int
    shape: tuple[int, ...]
    dtype: str
    ragged: bool
    items: int
    value_bytes: int
    file_bytes: int
    index_checksum: str
    lengths_digest: str

    @property
    def values(self) -> Path:
        """The file of values."""
        return self.path.with_suffix(VALUES)

    @property
    def stem(self) -> str:
        """Part and place, e.g. ``train.blocks.3``."""
        found = parse(self.path.name)
        return found[0] if found else self.path.stem


def read_json(path: Path) -> dict[str, Any] | str:
    """A small JSON object, or what is wrong with the file, in words that follow its name."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return "is no regular file"
        if found.st_size > _LARGEST_JSON:
            return "is far too large"
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read ({type(error).__name__})"
    return content if isinstance(content, dict) else "holds something else"


def read_manifest(path: Path, digest: str) -> Manifest | str:
    """The manifest at a path if it and its file of values look whole, else what is wrong."""
    content = read_json(path)
    return f"it {content}" if isinstance(content, str) else manifest_of(content, path, digest)


def manifest_of(content: Mapping[str, Any], path: Path, digest: str) -> Manifest | str:
    """What stands, or is to stand, in the manifest at a path, if it and its file of values look whole, else what is wrong."""
    if (content.get("format"), content.get("format_version")) != (FORMAT, FORMAT_VERSION):
        return "it is of another format or version"
    if content.get("key_digest") != digest:
        return "it belongs to another key"
    try:
        made = Manifest(
            path=path,
            rows=int(content["rows"]),
            shape=tuple(int(size) for size in content["shape"]),
            dtype=str(content["dtype"]),
            ragged=bool(content["ragged"]),
            items=int(content["items"]),
            value_bytes=int(content["value_bytes"]),
            file_bytes=int(content["file_bytes"]),
            index_checksum=str(content["index_checksum"]),
            lengths_digest=str(content["lengths_digest"]),
        )
        stem = str(content["stem"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        return f"it lacks or garbles an entry ({error!r})"
    if stem != made.stem:
        return f"it says that it is of {stem}"
    try:
        there = made.values.lstat()
    except OSError:
        return f"its file of values {made.values.name} is missing"
    if not stat.S_ISREG(there.st_mode):
        return f"its file of values {made.values.name} is no regular file"
    if there.st_size != made.file_bytes:
        return f"its file of values has {there.st_size} bytes instead of {made.file_bytes}"
    return made


def touch(manifest: Manifest) -> None:
    """Remember that a file was used now; a store that may only be read forgets it."""
    try:
        os.utime(manifest.path)
    except OSError:
        return


def promise(manifest: Manifest) -> None:
    """Keep a file for whoever opens it next: its last use lies ahead until then. Opening it ends that, and so does time, where
    nobody comes.
    """
    until = time.time() + HANDOVER_SECONDS
    try:
        os.utime(manifest.path, (until, until))
    except OSError:
        return


def is_promised(used: float) -> bool:
    """Whether a file whose last use was then is kept for somebody. What lies further ahead was written by a wrong clock."""
    return 0 < used - time.time() <= HANDOVER_SECONDS
