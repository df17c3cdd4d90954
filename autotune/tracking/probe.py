"""Whether runs can be written to a store, asked in a process of its own: ``autotune.probing.ask("autotune.tracking.probe", ...)``."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit

from autotune.errors import ConfigError
from autotune.probing import Facts, answer
from autotune.redaction import redact
from autotune.tracking.location import locate, require_reachable

_HTTP_PORTS = {"http": 80, "https": 443}
KNOCK_SECONDS = 3.0


def store_facts(uri: str, study_dir: str) -> Facts:
    """version of MLflow; uri of the store, its password blotted out; note. Or error. Writes nothing.

    uri: "" takes what a study takes by default.
    """
    try:
        version = importlib.metadata.version("mlflow")
    except importlib.metadata.PackageNotFoundError:
        return {"error": "MLflow is not installed"}
    try:
        location = locate(uri or None, Path(study_dir))
    except ConfigError as error:
        return {"version": version, "error": redact(str(error))}
    facts: Facts = {"version": version, "uri": location.shown, "note": location.note}
    try:
        require_reachable(location.uri, KNOCK_SECONDS)
        parts = urlsplit(location.uri)
        if parts.scheme in _HTTP_PORTS and parts.hostname:
            port = parts.port or _HTTP_PORTS[parts.scheme]
            socket.create_connection((parts.hostname, port), timeout=KNOCK_SECONDS).close()
        _require_writable(location.uri)
    except (OSError, sqlite3.Error) as error:
        facts["error"] = redact(f"{location.shown}: {error}")
    return facts


def _require_writable(uri: str) -> None:
    """The file of an SQLite store, where it is there; a folder that is not there yet is the disk's matter."""
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and file.exists() and not os.access(file, os.W_OK):
        raise PermissionError(f"{file} cannot be written to")


if __name__ == "__main__":
    answer({"store": store_facts})
