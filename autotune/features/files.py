"""The files of one key: what a folder holds, what of it is whole, and what may be cleared away.

    <root>/<digest of the key>/
        meta.json                                  format version and the key in plain words
        train.lock                                 held by whoever builds this part
        train.blocks.3.<pid>-<start>-<number>.bin  values, little-endian, row after row in row order, nothing between
                                                   them; behind them int64 lengths of rows (tokens only), uint64
                                                   xxh3 checksums of rows
        train.blocks.3.<pid>-<start>-<number>.json its manifest: rows, shape, type, bytes, checksum of what stands
                                                   behind the values

A manifest is renamed into place when its values have reached the disk: values without one are half-written or left over.
No file is ever written over. What does not look as described here is passed over, told in ``notes``, and left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.features.locks import Lock, try_lock
from autotune.features.marks import MANIFEST, SCRATCH, VALUES, new_name, parse, stem_of, writer_lives

FORMAT, FORMAT_VERSION = "autotune features", 1
META = "meta.json"
_LARGEST_JSON = 1 << 20
"""Bytes; what is larger is none of the store's."""


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


def digest_of(key: Mapping[str, Any]) -> str:
    """The name of a key's folder: 32 hexadecimal digits of the SHA-256 of its canonical JSON.

    Raises:
        ValueError: the key is no JSON.
    """
    return hashlib.sha256(_canonical(key).encode()).hexdigest()[:32]


def _canonical(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"A store's key consists of texts, whole numbers, lists and dictionaries; {value!r} does not ({error})."
        ) from error


class Folder:
    """One key's folder under a root. ``notes`` gets a sentence for whatever is passed over."""

    def __init__(self, path: Path, digest: str, notes: list[str]) -> None:
        self.path = path
        self.digest = digest
        self.notes = notes

    @classmethod
    def find(cls, root: Path, key: Mapping[str, Any], notes: list[str], *, create: bool) -> Folder | None:
        """The folder of a key. Where something else stands at its name, the next of a few numbered names is taken.

        Raises:
            OSError: it is to be made and cannot be.
            ValueError: the key is no JSON.
        """
        digest = digest_of(key)
        for name in (digest, *(f"{digest}-{number}" for number in range(2, 9))):
            folder = cls(root / name, digest, notes)
            wrong = folder._why_foreign(key)
            if wrong is None:
                return folder
            if wrong == "":
                if not create:
                    return None
                folder._make(key)
                return folder
            folder.note(f"{folder.path} is not used: {wrong}. It is left as it is; features go to the next free name.")
        if create:
            raise OSError(f"every name of a folder for these features under {root} is taken by something else")
        return None

    def note(self, sentence: str) -> None:
        """Say something once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _why_foreign(self, key: Mapping[str, Any]) -> str | None:
        """None: it is the key's folder. Empty: there is none yet. Else what is wrong with what stands there."""
        if not os.path.lexists(self.path):
            return ""
        if self.path.is_symlink() or not self.path.is_dir():
            return "it is no folder of its own"
        if not os.path.lexists(self.path / META):
            return ""  # its maker was killed before the first file
        meta = read_json(self.path / META)
        if isinstance(meta, str):
            return f"its {META} {meta}"
        if (meta.get("format"), meta.get("format_version")) != (FORMAT, FORMAT_VERSION):
            return f"its {META} is of another format or version"
        if _canonical(meta.get("key")) != _canonical(key):
            return f"its {META} names another key"
        return None

    def _make(self, key: Mapping[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        meta = {"format": FORMAT, "format_version": FORMAT_VERSION, "key": dict(key)}
        self.put_json("meta", self.path / META, meta)

    def put_json(self, stem: str, target: Path, content: Mapping[str, Any]) -> None:
        """Write a file whole: under another name, to the disk, then renamed.

        Raises:
            OSError: it cannot be written; nothing is left.
        """
        scratch = self.path / (new_name(stem) + SCRATCH)
        try:
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                write_all(descriptor, memoryview(json.dumps(content, indent=1).encode() + b"\n"), 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(scratch, target)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        sync_folder(self.path)

    def manifest(self, part: str, place: tuple[str, int]) -> Manifest | None:
        """The manifest of a whole file of this part and place; None where there is none."""
        return next(self.manifests(stem_of(part, place)), None)

    def manifests(self, stem: str | None = None) -> Iterator[Manifest]:
        """All whole files, or those of one part and place, in the order of their names."""
        for path in sorted(self._named(MANIFEST)):
            if stem is not None and (parse(path.name) or ("", ""))[0] != stem:
                continue
            found = read_manifest(path, self.digest)
            if isinstance(found, Manifest):
                yield found
            else:
                self.note(f"{path} is passed over as if it were not there: {found}. What it held is computed again.")

    def _named(self, ending: str) -> list[Path]:
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries]
        except OSError:
            return []
        return [self.path / name for name in names if (parse(name) or ("", ""))[1] == ending]

    def clear_leftovers(self) -> None:
        """Remove what a dead writer left: values without a manifest, unfinished manifests. Where there are no locks they stay:
        nothing there tells a dead writer from one in another container or on another machine."""
        kept = {path.stem for path in self._named(MANIFEST)}
        found = [*self._named(SCRATCH), *(one for one in self._named(VALUES) if one.stem not in kept)]
        removed = [path for path in found if not writer_lives(path.name) and self.remove_unused(path)]
        if len(removed) == 1:
            self.note(f"{removed[0]} was left half-written by a process that is gone; it was removed.")
        elif removed:
            self.note(
                f"{len(removed)} files of {self.path} were left half-written by a process that is gone; they were removed."
            )

    def remove_unused(self, path: Path) -> bool:
        """Remove a regular file of the store that nobody holds; whether it was."""
        descriptor = exclusive(path)
        if descriptor is None:
            return False
        try:
            path.unlink()
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return True

    def discard(self, manifest: Manifest, why: str) -> None:
        """Take a damaged file out of use, and remove its values unless somebody still reads them."""
        try:
            manifest.path.unlink()
        except OSError as error:
            self.note(f"{manifest.values} {why} and could not be taken out of use ({error}).")
            return
        self.remove_unused(manifest.values)  # else it is a leftover, removed when its readers are gone
        self.note(f"{manifest.values} {why}: it was taken out of use, and what it held is computed again.")


def exclusive(path: Path) -> int | None:
    """A descriptor that holds the exclusive lock of a regular file; None where somebody else holds one or none can be
    had."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode) and try_lock(descriptor, exclusive=True) is Lock.HELD:
        return descriptor
    os.close(descriptor)
    return None


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
    if isinstance(content, str):
        return f"it {content}"
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


def write_all(descriptor: int, content: memoryview, offset: int) -> None:
    """Write bytes at a place of a file; the system may take less than all at once."""
    while content:
        count = os.pwrite(descriptor, content, offset)
        content, offset = content[count:], offset + count


def sync_folder(path: Path) -> None:
    """Hands a folder's entries to the disk, so that a rename outlives a power cut."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # pragma: no cover - Windows does not open folders
        return
    try:
        os.fsync(descriptor)
    except OSError:  # pragma: no cover - some network file systems refuse; the file itself has been flushed
        pass
    finally:
        os.close(descriptor)
