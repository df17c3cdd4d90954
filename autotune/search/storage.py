"""Where a study's record lies: a SQLite file or a database by URL, opened through Optuna.

SQLite with its default rollback journal is the file form: every write is one transaction that is on the disk when the
call returns, a ``kill -9`` in the middle leaves the state before or after it, and at rest the study is one file that
can be copied. Optuna's journal file was the other choice: a line torn by a kill makes it unreadable for good once the
next line is appended. SQLite's write-ahead log was not taken, since it needs shared memory (no network file systems)
and leaves part of the study in a second file.
"""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from autotune.errors import StudyError

_BUSY_SECONDS = 60  # how long a write waits for a reader of the same file
_SQLITE = "sqlite:///"

# every in-memory copy of a study would be announced on stderr
optuna.logging.set_verbosity(optuna.logging.WARNING)


def sqlite_file(url: str) -> Path | None:
    """The file of a ``sqlite:///`` URL, None for any other database. All after the prefix is the path, as it stands."""
    path = url.removeprefix(_SQLITE)
    return Path(path) if path not in (url, "", ":memory:") else None


def as_url(storage: str | Path) -> str:
    """A URL as it is, a path as the URL of a SQLite file."""
    if isinstance(storage, str) and "://" in storage:
        return storage
    return f"{_SQLITE}{Path(storage).expanduser().absolute()}"


def open_storage(url: str, *, create: bool) -> BaseStorage:
    """Optuna's storage at a URL; with ``create`` a SQLite file and its folder are made where they are missing.

    Raises:
        StudyError: there is no such file, it is no study, or the database cannot be reached.
    """
    file = sqlite_file(url)
    engine: dict[str, Any] = {}
    address = url
    if file is not None:
        if not create and not file.is_file():
            raise StudyError(
                f"There is no study at {file}. Start one with `autotune run --study-dir {shlex.quote(str(file.parent))}`."
            )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"The study folder {file.parent} cannot be made: {error.strerror or error}.") from error
        # opened here, not by URL: a path may hold ?, # or %, which mean something there
        engine["creator"] = lambda: sqlite3.connect(file, timeout=_BUSY_SECONDS, check_same_thread=False)
        engine["poolclass"] = NullPool  # no connection outlives its transaction, so none is left open at the end
        address = f"{_SQLITE}study.db"
    else:
        engine["pool_pre_ping"] = True  # a server may have closed an idle connection between two trials
    with translated(url):
        try:
            return get_storage(RDBStorage(address, engine_kwargs=engine))
        except RuntimeError as error:  # how Optuna says that the tables are of another version
            raise StudyError(
                f"The study's record at {place(url)} was written by another version of Optuna: {error}"
            ) from error


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turns what the database raises into a StudyError that says where and what to do."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError) as error:
        cause = error.__cause__ or error
        raise StudyError(
            f"The study's record at {place(url)} cannot be used: {type(cause).__name__}: {cause}. "
            f"Is it a study of this version, is the disk full, is the database reachable and its driver installed?"
        ) from error


def place(url: str) -> str:
    """Where a storage is, for messages: a file's path, or a URL without its password."""
    file = sqlite_file(url)
    if file is not None:
        return str(file)
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
