"""What is still to be delivered, in memory and as files, so that neither a dead server nor a dead driver loses it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

from autotune.files import write_text

_ORDER = {"study": 0, "trial": 1, "front": 2, "finished": 3}


class Outbox:
    """Undelivered messages by key; a later message replaces an earlier one of its key.

    Keys are ``study``, ``trial-<number>``, ``front`` and ``finished``, and are handed out in that order. Each message
    is also a JSON file in ``folder`` until it is delivered. Safe to use from several threads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._messages: dict[str, tuple[str, dict[str, Any]]] = {}
        self.unreadable: list[str] = []
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            try:
                message = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                self.unreadable.append(path.name)
                continue
            if isinstance(message, dict):
                self._messages[path.stem] = (uuid4().hex, message)

    def put(self, key: str, message: dict[str, Any]) -> None:
        """Add or replace a message.

        Raises:
            OSError: its file could not be written; the message is kept in memory all the same.
        """
        with self._lock:
            self._messages[key] = (uuid4().hex, message)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / f"{key}.json", json.dumps(message, default=str))

    def waiting(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(key, token, message) of everything undelivered, in the order of delivery."""
        with self._lock:
            return [(key, *self._messages[key]) for key in sorted(self._messages, key=_position)]

    def delivered(self, key: str, token: str) -> None:
        """Forget a message, unless a newer one has taken its place meanwhile."""
        with self._lock:
            if key in self._messages and self._messages[key][0] == token:
                del self._messages[key]
                (self.folder / f"{key}.json").unlink(missing_ok=True)

    def __len__(self) -> int:
        with self._lock:
            return len(self._messages)


def _position(key: str) -> tuple[int, str]:
    return (_ORDER.get(key.partition("-")[0], len(_ORDER)), key)
