"""Room in a store: what it holds, and what goes when more is to come."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from autotune.features.files import META, Folder
from autotune.features.leftovers import exclusively, names_in
from autotune.features.manifests import FORMAT, FORMAT_VERSION, Manifest, is_promised, read_json, read_manifest
from autotune.features.marks import MANIFEST, SCRATCH, VALUES, parse, writer_lives
from autotune.features.new_files import free_bytes
from autotune.units import format_bytes

_FOLDER = re.compile(r"[0-9a-f]{32}(-[2-8])?")
"""Names of folders that the store makes."""
SHARE_OF_DISK = 0.5
"""Of the disk's free room, what a store takes unless it is given a budget."""


@dataclass(frozen=True)
class Usage:
    """What a store holds, of all keys together.

    bytes: of all its files, those half-written too. files: places of parts that are whole. oldest: when the file longest
    unused was last opened, as a POSIX time; None of an empty store.
    """

    bytes: int
    files: int
    oldest: float | None


@dataclass(frozen=True)
class Room:
    """What came of making room. enough: whether what is needed has room now. free: bytes that may be written, of the budget or
    of the disk, whichever is less. evicted: sentences, one for each file that went."""

    enough: bool
    free: int
    evicted: tuple[str, ...]


class _Candidate(NamedTuple):
    """What may go together. used: when a whole file was last used; 0.0 of what nobody can use: left half-written by a dead
    writer, or with a manifest or a size that is not right. bytes: of ``paths``, which stand in the order in which they go: the
    manifest first, so that a kill in between leaves values that nobody takes for whole."""

    used: float
    bytes: int
    paths: tuple[Path, ...]
    folder: Folder
    whole: bool


def usage(root: Path) -> Usage:
    """What lies in a store; one that is not there holds nothing."""
    folders = _folders(root, [])
    stamps = [one.used for one in _candidates(folders) if one.whole]
    return Usage(_held_bytes(folders), len(stamps), min(stamps, default=None))


def make_room(root: Path, needed: int, budget: int, notes: list[str]) -> Room:
    """Let go of the files that were unused longest until ``needed`` bytes more stay within ``budget`` and find room on the
    disk.

    What nobody can use goes first: what a dead writer of whatever key left half-written, and files whose manifest or size is
    not right. Files that a living process has open stay, the caller's own too (whoever needs what lies there holds a reader
    of it), those that are handed over at the moment, and whatever the store did not write. If all that may go were not
    enough, nothing goes.

    needed, budget: bytes; the budget is that of the whole store. Two that make room at once and write afterwards may together
    exceed it, unless each holds :meth:`autotune.features.store.FeatureStore.room` until its writers have taken theirs.
    """
    folders = _folders(root, notes)
    free = _free(root, budget, _held_bytes(folders))
    if needed <= free:
        return Room(True, free, ())
    candidates = sorted(_candidates(folders), key=lambda one: (one.used, one.paths))
    if free + _going(candidates, needed - free) < needed:
        notes.append(
            f"The store {root} has no room for {format_bytes(needed)}: {format_bytes(max(free, 0))} are free of its budget of "
            f"{format_bytes(budget)} or of the disk, and what is not in use would not be enough. Nothing was evicted."
        )
        return Room(False, max(free, 0), ())
    evicted: list[str] = []
    coming = free
    for one in candidates:
        if coming >= needed:
            break
        if sentence := _evict(one):
            evicted.append(sentence)
            coming += one.bytes
    notes.extend(evicted)
    free = _free(root, budget, _held_bytes(folders))
    if free < needed:
        notes.append(
            f"The store {root} has no room for {format_bytes(needed)}: {format_bytes(max(free, 0))} are free now that everything "
            "that could be evicted is gone."
        )
    return Room(free >= needed, max(free, 0), tuple(evicted))


def possible_room(root: Path, budget: int) -> int:
    """The bytes that :func:`make_room` could provide at most: those that are free of the budget and of the disk, and what
    nobody has open or can use. Below 0 where what is open exceeds the budget alone."""
    folders = _folders(root, [])
    return _free(root, budget, _held_bytes(folders)) + _going(_candidates(folders))


def budget_of(given: int | None, root: Path) -> int:
    """Bytes that the whole store may hold: what was given, else what it holds and a share of what the disk has free."""
    return usage(root).bytes + round(SHARE_OF_DISK * free_bytes(root)) if given is None else given


def _going(candidates: list[_Candidate], missing: float = math.inf) -> int:
    """Bytes of those that may go, of the first ones that together have what is missing. Each is let go before the next is
    looked at, as there may be more of them than a process may have open."""
    going = 0
    for one in candidates:
        if going >= missing:
            break
        with _taken(one) as taken:
            going += one.bytes if taken else 0
    return going


@contextmanager
def _taken(one: _Candidate) -> Iterator[bool]:
    """Hold what may go, so that nobody opens it; False of what somebody has open or is about to open, of what is another
    thing by now, and where this process may remove nothing."""
    with exclusively(one.paths[-1]) as held:
        yield (
            held
            and os.access(one.folder.path, os.W_OK | os.X_OK)
            and (now := _candidate(one.folder, one.paths[0].stem)) is not None
            and (now.paths, now.whole) == (one.paths, one.whole)
            and not is_promised(now.used)
        )


def _evict(one: _Candidate) -> str:
    """What is to be said of it; "" where it stays."""
    with _taken(one) as taken:
        if not taken:
            return ""
        try:
            for path in one.paths:
                path.unlink()
        except OSError as error:
            one.folder.note(f"{one.paths[-1]} could not be evicted ({error}).")
            return ""
    if not one.whole:
        return (
            f"Removed {one.paths[-1]} ({format_bytes(one.bytes)}): it was left half-written or damaged, and of no use."
        )
    used = datetime.fromtimestamp(one.used).strftime("%Y-%m-%d %H:%M")
    return f"Evicted {one.paths[-1]} ({format_bytes(one.bytes)}, last used {used})."


def _folders(root: Path, notes: list[str]) -> list[Folder]:
    """Folders that the store made, one whose ``meta.json`` is damaged too; anything else in the root is nobody's business
    here."""
    try:
        found = sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []
    made = []
    for path in found:
        meta = read_json(path / META)
        own = isinstance(meta, str) or (meta.get("format"), meta.get("format_version")) == (FORMAT, FORMAT_VERSION)
        if own and _FOLDER.fullmatch(path.name):
            made.append(Folder(path, path.name[:32], notes))
    return made


def _candidates(folders: list[Folder]) -> list[_Candidate]:
    found = []
    for folder in folders:
        for base in {Path(name).stem for name in names_in(folder.path)}:
            one = _candidate(folder, base)
            if one is not None:
                found.append(one)
    return found


def _candidate(folder: Folder, base: str) -> _Candidate | None:
    """The regular files that share a name up to its ending; None where there are none, or a living writer is at work."""
    manifest, *others = (folder.path / (base + ending) for ending in (MANIFEST, SCRATCH, VALUES))
    whole = isinstance(read_manifest(manifest, folder.digest), Manifest)
    if not whole and not os.path.lexists(manifest) and writer_lives(base + VALUES):
        return None
    used, sizes = 0.0, dict[Path, int]()
    for path in (manifest, *others):
        try:
            found = path.lstat()
        except OSError:  # it went meanwhile, or never was
            continue
        if stat.S_ISREG(found.st_mode):
            sizes[path] = found.st_size
            used = found.st_mtime if whole and path == manifest else used
    return _Candidate(used, sum(sizes.values()), tuple(sizes), folder, whole) if sizes else None


def _held_bytes(folders: list[Folder]) -> int:
    """What the store's own files take of the disk: their names tell which these are."""
    total = 0
    for folder in folders:
        try:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    if parse(entry.name) and entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # it went meanwhile
            continue
    return total


def _free(root: Path, budget: int, held: int) -> int:
    there = next(path for path in (root, *root.absolute().parents) if path.exists())
    return min(budget - held, free_bytes(there))
