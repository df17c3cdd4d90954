"""Where runs are written: which store, under which name, and how a store is kept from holding up the search."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import socket
import sqlite3
import warnings
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from autotune.errors import ConfigError
from autotune.redaction import redact

DEFAULT_EXPERIMENT = "memory-autotune"
OWN = "own"
"""The key of the store in a study's own folder."""
SQL_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_DATABRICKS = ("databricks", "databricks-uc", "uc")
_SCHEMES = ("http", "https", "sqlite", *SQL_PORTS, *_DATABRICKS)
_PLUGINS = "mlflow.tracking_store"
"""Entry points of packages that bring MLflow a further store, each called as its scheme."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """A tracking store. ``artifacts``: URI of the artifacts' folder where no server decides about it. ``own``: the file of a store
    that is the study's alone. ``named``: a person named it for this study, so that it is the same whatever the environment says."""

    uri: str
    artifacts: str | None
    note: str | None = None
    own: Path | None = None
    named: bool = False

    @property
    def shown(self) -> str:
        """The address without its password."""
        return redact(self.uri)

    @property
    def key(self) -> str:
        """A name for this store that stays: the study's own goes where its folder goes, and a password may change."""
        return OWN if self.own is not None else _digest(self.shown.rstrip("/"))

    @property
    def former_key(self) -> str:
        """What earlier versions called this store: of its whole address."""
        return _digest(self.uri)


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def locate(uri: str | None, study_dir: Path) -> Location:
    """The store at ``uri``, else at MLFLOW_TRACKING_URI, else an SQLite file in the study's folder.

    Raises:
        ConfigError: ``uri`` is a folder or a file: address, which MLflow no longer writes to, an empty text, or an address that
            MLflow has no store for.
    """
    note, named = None, uri is not None
    if uri is not None:
        _require_store(uri)
    else:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip() or None
        if uri is not None and (problem := _problem(uri)):
            what = "names a folder, which MLflow no longer writes to" if _is_file_store(uri) else problem
            note = (
                f"MLFLOW_TRACKING_URI={redact(uri)} {what}; runs are written to the study's own mlflow.db. Set a sqlite:///, "
                "postgresql:// or http:// address to have them elsewhere."
            )
            uri = None
    own = study_dir / "mlflow.db"
    alone = uri is None or sqlite_path(uri) == own.expanduser().resolve()  # also where a person names it in full
    uri = _absolute(uri or f"sqlite:///{own}")
    artifacts = _artifacts(uri, study_dir)
    return Location(uri=uri, artifacts=artifacts, note=note, own=own if alone else None, named=named)


def _is_file_store(uri: str) -> bool:
    return ("://" not in uri and not uri.startswith("databricks")) or uri.startswith("file:")


def _problem(uri: str) -> str | None:
    """Why MLflow cannot write runs to an address, to be read behind it; None where it may."""
    if _is_file_store(uri):
        return "is no address that MLflow can write runs to (it no longer writes to plain folders)"
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        return f"is no address ({error})"
    scheme = (parts.scheme or uri).partition("+")[0]
    plugins = [found.name for found in importlib.metadata.entry_points(group=_PLUGINS)]
    if scheme not in (*_SCHEMES, *plugins):
        return f"is no address that MLflow can write runs to (it has no store for {scheme!r})"
    if scheme in ("http", "https") and not parts.hostname:
        return "is no address that MLflow can write runs to (it names no host)"
    if scheme == "sqlite" and not parts.path.strip("/"):
        return "is no address that MLflow can write runs to (it names no file)"
    return None


def _require_store(uri: str) -> None:
    if problem := _problem(uri):
        raise ConfigError(
            f"{redact(uri)!r} {problem}. Allowed are "
            "sqlite:///PATH/mlflow.db, postgresql://USER:PASSWORD@HOST/NAME, or http://HOST:PORT of an MLflow server; "
            "without the option runs go to mlflow.db in the study's folder."
        )


def _absolute(uri: str) -> str:
    """SQLite paths relative to the present working folder made absolute: the folder may change, the store may not."""
    path = sqlite_path(uri)
    return f"sqlite:///{path}" if path is not None else uri


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None of another store, or one in memory."""
    prefix = "sqlite:///"
    plain = uri.removeprefix(prefix)
    if plain == uri or plain in ("", ":memory:") or "?" in plain:
        return None
    return Path(plain).expanduser().resolve()


def _artifacts(uri: str, study_dir: Path) -> str | None:
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme == "sqlite":
        path = sqlite_path(uri)
        return ((path.parent if path else study_dir).absolute() / "mlartifacts").as_uri()
    if scheme in SQL_PORTS:
        return (study_dir.absolute() / "mlartifacts").as_uri()
    return None  # a server decides


def require_reachable(uri: str, timeout_s: float = 3.0) -> None:
    """Knock first at a database's port, or look into its file: MLflow itself would try again for minutes.

    Raises:
        OSError: nobody answers within the time.
        sqlite3.Error: the file is there but is no database that can be read.
    """
    path = sqlite_path(uri)
    if path is not None and path.exists():
        with closing(sqlite3.connect(path, timeout=timeout_s)) as database:
            database.execute("SELECT count(*) FROM sqlite_master")
    parts = urlsplit(uri)
    port = SQL_PORTS.get(parts.scheme.partition("+")[0])
    if port is not None and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or port), timeout=timeout_s).close()


def quiet_environment() -> None:
    """Bound MLflow's waiting and still its chatter, wherever the person has not set it; before mlflow is imported."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_DISABLE_AGENT_HINT": "true",
    }.items():
        os.environ.setdefault(name, value)


def quiet_loggers() -> None:
    """No schema migrations and no tracebacks of MLflow's on the terminal; what fails is said in the tracker's notes."""
    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.CRITICAL)


def quiet_warnings() -> None:
    """MLflow's own use of what SQLAlchemy deprecates is nobody's business here, and no reason to lose a run."""
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"mlflow\.")
