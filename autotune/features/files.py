"""The files of one key: what a folder holds, what of it is whole, and what may be cleared away.

    <root>/<digest of the key>/
        meta.json                                  format version and the key in plain words
        building.lock                              held by whoever fills the folder
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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from autotune.features.leftovers import left_over, names_in, new_file, remove_left_over, remove_unused
from autotune.features.manifests import FORMAT, FORMAT_VERSION, Manifest, read_json, read_manifest
from autotune.features.marks import MANIFEST, SCRATCH, folder_names, parse, stem_of

META = "meta.json"


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
        for name in folder_names(digest):
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

    def work_seen(self) -> object:
        """Something that changes while anybody writes here: names and times of the store's own files."""
        seen = set[tuple[str, int]]()
        for name in names_in(self.path):
            with suppress(OSError):  # it went meanwhile
                seen.add((name, (self.path / name).lstat().st_mtime_ns))
        return seen

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
        descriptor, scratch = new_file(self.path, stem, SCRATCH)
        try:
            write_all(descriptor, memoryview(json.dumps(content, indent=1).encode() + b"\n"), 0)
            os.fsync(descriptor)
            os.replace(scratch, target)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
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
        return [self.path / name for name in names_in(self.path) if (parse(name) or ("", ""))[1] == ending]

    def clear_leftovers(self) -> None:
        """Remove what a dead writer left: values without a manifest, unfinished manifests. Where there are no locks they stay:
        nothing there tells a dead writer from one in another container or on another machine."""
        removed = [path for path in left_over(self.path) if remove_left_over(path)]
        if len(removed) == 1:
            self.note(f"{removed[0]} was left half-written by a process that is gone; it was removed.")
        elif removed:
            self.note(
                f"{len(removed)} files of {self.path} were left half-written by a process that is gone; they were removed."
            )

    def discard(self, manifest: Manifest, why: str) -> None:
        """Take a damaged file out of use, and remove its values unless somebody still reads them."""
        try:
            manifest.path.unlink()
        except OSError as error:
            self.note(f"{manifest.values} {why} and could not be taken out of use ({error}).")
            return
        remove_unused(manifest.values)  # else it is a leftover, removed when its readers are gone
        self.note(f"{manifest.values} {why}: it was taken out of use, and what it held is computed again.")


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
