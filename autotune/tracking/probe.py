"""Whether runs can be written to a store, asked in a process of its own: ``autotune.probing.ask("autotune.tracking.probe", ...)``."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from autotune.errors import ConfigError
from autotune.probing import Facts, answer
from autotune.redaction import redact
from autotune.tracking.location import SQL_PORTS, locate, require_reachable, sqlite_path

_HTTP_PORTS = {"http": 80, "https": 443}
KNOCK_SECONDS = 3.0


def store_facts(study_dir: str, uri: str | None = None) -> Facts:
    """version of MLflow; uri of the store, its password blotted out; note. Or error. Leaves nothing behind.

    uri: None takes what a study takes by default.
    """
    try:
        version = importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        return {"error": "MLflow is not installed"}
    try:
        location = locate(uri, Path(study_dir))
    except ConfigError as error:
        return {"version": version, "error": str(error)}
    facts: Facts = {"version": version, "uri": location.shown, "note": location.note}
    try:
        _require_driver(location.uri)
        require_reachable(location.uri, KNOCK_SECONDS)
        parts = urlsplit(location.uri)
        if parts.scheme in _HTTP_PORTS and parts.hostname:
            port = parts.port or _HTTP_PORTS[parts.scheme]
            socket.create_connection((parts.hostname, port), timeout=KNOCK_SECONDS).close()
        if location.own is None:  # its folder is the disk's matter
            _require_writable(location.uri)
    except (OSError, sqlite3.Error, ImportError, SQLAlchemyError) as error:
        facts["error"] = redact(f"{location.shown}: {error}")
    return facts


def _require_driver(uri: str) -> None:
    """The package that speaks to a database; of the others there is none.

    Raises:
        ImportError, SQLAlchemyError: there is none, or none of this name.
    """
    if urlsplit(uri).scheme.partition("+")[0] in SQL_PORTS:
        try:
            create_engine(uri).dispose()
        except ImportError as error:
            raise ImportError(
                f"{error}; install that package, or name another driver, as in postgresql+psycopg://"
            ) from error


def _require_writable(uri: str) -> None:
    """The file of an SQLite store, or the folder that it would come into."""
    path = sqlite_path(uri)
    if path is None:
        return
    if path.exists():
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written to")
        return
    place = next(folder for folder in path.parents if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise PermissionError(f"{place} cannot be written to ({error.strerror})") from error


if __name__ == "__main__":
    answer({"store": store_facts})
