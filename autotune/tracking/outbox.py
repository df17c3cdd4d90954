"""What is still to be delivered, in memory and as files, so that neither a dead server nor a dead driver loses it."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from autotune.files import write_text
from autotune.tracking.location import OWN

_ORDER = {"study": 0, "trial": 1, "front": 2, "finished": 3}
OWN_STORE = "the study's own mlflow.db"
_STORE = "store"
"""Beside a message: the store's address, without a password, for people."""
_ABANDONED_S = 60.0
"""A scratch file of this age was left by a process that was killed: writing one takes milliseconds."""


class Outbox:
    """Undelivered messages for one store by key; a later message replaces an earlier one of its key.

    Keys are ``study``, ``trial-<number>``, ``front`` and ``finished``, and are handed out in that order. Each message
    is also a JSON file ``<store>/<key>.<time>-<id>.json`` in ``folder`` until it is delivered. No name is used twice, so
    that what one process has delivered is never a newer message of another's. Safe to use from several threads.

    store: the store's key. shown: its address without a password. keyless: the address of the store that the messages of
    earlier versions, ``<key>.json`` in ``folder`` itself, are for; None: this one.
    """

    def __init__(self, folder: Path, *, store: str, shown: str, keyless: str | None = None) -> None:
        self.folder = folder / store
        self._root = folder
        self._shown = shown
        self._keyless = keyless
        self._lock = threading.Lock()
        self._messages: dict[str, tuple[Path, dict[str, Any]]] = {}
        self._unkept: set[Path] = set()  # in memory alone, as their files could not be written
        self._last_ns = 0
        self.unreadable: list[Path] = []
        with self._lock:
            self._read()

    def put(self, key: str, message: dict[str, Any]) -> None:
        """Add or replace a message.

        Raises:
            OSError: its file could not be written; the message is kept in memory all the same.
        """
        with self._lock:
            self._last_ns = max(time.time_ns(), self._last_ns + 1)
            path = self.folder / f"{key}.{self._last_ns:020d}-{uuid4().hex[:8]}.json"
            earlier = self._messages.get(key)
            self._messages[key] = (path, message)
            self._unkept.add(path)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({_STORE: self._shown, **message}, default=str))
            self._unkept.discard(path)
            if earlier is not None:
                self._forget(earlier[0])

    def waiting(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(key, token, message) of everything undelivered, in the order of delivery."""
        with self._lock:
            keys = sorted(self._messages, key=_position)
            return [(key, self._messages[key][0].name, self._messages[key][1]) for key in keys]

    def message(self, key: str) -> dict[str, Any] | None:
        """The message that waits under a key."""
        with self._lock:
            return self._messages[key][1] if key in self._messages else None

    def delivered(self, key: str, token: str) -> None:
        """Forget a message, unless a newer one has taken its place meanwhile."""
        with self._lock:
            if key in self._messages and self._messages[key][0].name == token:
                self._forget(self._messages.pop(key)[0])

    def refresh(self) -> None:
        """Read again what other processes have put in or delivered, and clear away what killed ones left behind.

        For the holder of the delivery lock alone.

        Raises:
            OSError: the folder cannot be read or written.
        """
        with self._lock:
            for path in self._read():
                path.unlink(missing_ok=True)
            for path in (*self._root.glob(".*.json"), *self._root.glob("*/.*.json")):
                # an earlier version's lies in the folder itself, where nothing is written any more
                if path.parent == self._root or _age_s(path) > _ABANDONED_S:
                    path.unlink(missing_ok=True)

    def elsewhere(self) -> dict[str, int]:
        """How many messages wait for other stores, by the stores' addresses without passwords."""
        counts: dict[str, int] = {}
        for folder in sorted(self._root.iterdir()) if self._root.is_dir() else ():
            if folder.is_dir() and folder != self.folder and (files := _messages_in(folder)):
                shown = (_loaded(files[0]) or {}).get(_STORE, "another store")
                shown = OWN_STORE if folder.name == OWN else str(shown)
                counts[shown] = counts.get(shown, 0) + len({_key(file) for file in files})
        if self._keyless is not None and (files := _messages_in(self._root)):
            counts[self._keyless] = counts.get(self._keyless, 0) + len(files)
        return counts

    def __len__(self) -> int:
        with self._lock:
            return len(self._messages)

    def _read(self) -> list[Path]:
        """Take the files' messages into memory. Returns files that newer ones of their keys have replaced."""
        newest: dict[str, Path] = {}
        replaced: list[Path] = []
        places = (self._root, self.folder) if self._keyless is None else (self.folder,)
        for path in (path for place in places for path in _messages_in(place)):  # the oldest first
            if (key := _key(path)) in newest:
                replaced.append(newest[key])
            newest[key] = path
        known = dict(self._messages.values())
        self.unreadable = []
        found: dict[str, tuple[Path, dict[str, Any]]] = {}
        for key, path in newest.items():
            try:
                message = known[path] if path in known else json.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:  # delivered by another process this moment
                continue
            except (OSError, ValueError):
                self.unreadable.append(path)
                continue
            if isinstance(message, dict):
                message.pop(_STORE, None)
                found[key] = (path, message)
        unkept = {key: kept for key, kept in self._messages.items() if kept[0] in self._unkept}
        self._messages = {**found, **unkept}
        return replaced

    def _forget(self, path: Path) -> None:
        self._unkept.discard(path)
        path.unlink(missing_ok=True)


def _messages_in(folder: Path) -> list[Path]:
    """Files of messages, the oldest of each key first; names that begin with a dot are what a write has not ended."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith(".") and path.is_file())


def _key(path: Path) -> str:
    return path.name.partition(".")[0]


def _loaded(path: Path) -> dict[str, Any] | None:
    try:
        message = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _position(key: str) -> tuple[int, str]:
    return (_ORDER.get(key.partition("-")[0], len(_ORDER)), key)
