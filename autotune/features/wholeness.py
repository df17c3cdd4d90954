"""Whether a file of values is the one that its manifest speaks of: its size when it is opened, its bytes by their checksums."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from autotune.features.locks import Lock, is_at, lock_shared
from autotune.features.manifests import Manifest

Content: TypeAlias = bytes | memoryview


def open_values(manifest: Manifest) -> int | str:
    """A descriptor of the file, with a shared lock, so that nobody evicts it while it or a copy is open; or what is wrong, in words
    that follow the file's name."""
    try:
        descriptor = os.open(manifest.values, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    wrong = ""
    if lock_shared(descriptor) is Lock.BUSY or not is_at(descriptor, manifest.values) or not manifest.path.exists():
        wrong = "is being evicted"
    elif os.fstat(descriptor).st_size != manifest.file_bytes:
        wrong = "changed its size"
    if wrong:
        os.close(descriptor)
        return wrong
    return descriptor


def has_its_index(manifest: Manifest, content: Content) -> bool:
    """Whether what stands behind the values is what was written. content: the whole file."""
    return xxh3_128_hexdigest(content[manifest.value_bytes :]) == manifest.index_checksum


def damaged_row(manifest: Manifest, content: Content) -> int | None:
    """The first row whose values are not those that were written, of a file that has its index; None where there is none.
    content: the whole file."""
    index = np.frombuffer(content[manifest.value_bytes :], dtype="<u8")
    items = index[: manifest.rows].astype(np.int64) if manifest.ragged else np.ones(manifest.rows, np.int64)
    size = manifest.value_bytes // max(1, manifest.items)  # bytes of one item
    ends = (np.cumsum(items) * size).tolist()
    begin = 0
    for row, (end, expected) in enumerate(zip(ends, index[len(index) - manifest.rows :].tolist(), strict=True)):
        if xxh3_64_intdigest(content[begin:end]) != expected:
            return row
        begin = end
    return None
