"""MLflow's own pages over a study's store, served by this very process: there is no worker that could outlive it.

What is served is MLflow's application as ``mlflow server`` serves it. To its one page a style and a line of script are added:
descriptions are shown whole (MLflow shows 100 pixels of one until it is asked for more), and its assistant does not unfold
over the first page that a person opens.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from autotune.errors import ConfigError
from autotune.tracking.location import Location, quiet_environment, quiet_loggers, quiet_warnings, require_reachable
from autotune.tracking.moved import bring_along
from autotune.tracking.page import run_page

DEFAULT_PORT = 5000
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SERVED = ("sqlite", "postgresql", "mysql", "mssql")
_WHOLE_DESCRIPTIONS = """<style>
div:has(> [data-testid="truncation-gradient"]) { max-height: none !important; overflow: visible !important; }
[data-testid="truncation-gradient"], div:has(> [data-testid="truncation-gradient"]) + button { display: none !important; }
</style>"""
_NO_ASSISTANT = """<script>
try {
  const key = "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1";
  if (localStorage.getItem(key) === null) { localStorage.setItem(key, "true"); }
} catch (error) { console.debug(error); }
</script>"""
ADDED = (_WHOLE_DESCRIPTIONS + _NO_ASSISTANT).encode()

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def can_be_served(location: Location) -> bool:
    """Whether the store is a database, which a server of ours can show; others have a server of their own."""
    return urlsplit(location.uri).scheme.partition("+")[0] in _SERVED


def find_run(location: Location, *, study_id: str, run_id: str | None) -> tuple[str, str] | None:
    """(experiment, run) of a study in a store; None where the store does not know it.

    Raises:
        OSError, sqlite3.Error, mlflow.exceptions.MlflowException: the store does not answer.
    """
    quiet_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    quiet_loggers()
    quiet_warnings()
    require_reachable(location.uri)
    with contextlib.suppress(sqlite3.OperationalError):  # a folder for reading only: all but the pictures is there
        bring_along(location)
    client = MlflowClient(tracking_uri=location.uri)
    if run_id is not None:
        try:
            known = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
        else:
            if known.info.lifecycle_stage == "active":
                return str(known.info.experiment_id), str(known.info.run_id)
    experiments = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.study_id = '{study_id}' and tags.kind = 'study'", max_results=1)
    return (str(found[0].info.experiment_id), str(found[0].info.run_id)) if found else None


def run_address(base: str, experiment_id: str, run_id: str) -> str:
    """The page of a run on the server at ``base``, whose user name and password are left out."""
    clean = re.sub(r"(?<=://)[^/@]*@", "", base).rstrip("/")
    return f"{clean}/{run_page(experiment_id, run_id)}"


def listening_socket(host: str, port: int | None) -> socket.socket:
    """A socket bound to ``port``; where none is asked for, to :data:`DEFAULT_PORT` or any free one.

    Raises:
        ConfigError: the port is taken, or the host is not one of this machine's.
    """
    wanted = (DEFAULT_PORT, 0) if port is None else (port,)
    for candidate in wanted:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, candidate))
            made.listen()
        except OSError as error:
            made.close()
            if candidate == wanted[-1]:
                raise ConfigError(
                    f"Nothing can listen on {host} port {candidate}: {error.strerror or error}. Give another --port, or "
                    "none: then a free one is taken."
                ) from error
            continue
        made.set_inheritable(False)
        return made
    raise AssertionError("the last candidate returns or raises")


def serve(location: Location, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serves MLflow's pages over a database until SIGINT or SIGTERM. on_ready: called once when it answers.

    Raises:
        KeyboardInterrupt: it was ended by SIGINT.
    """
    quiet_environment()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # no processes beside this one
    from mlflow.server import constants

    # as `mlflow server` tells its workers
    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = location.uri
    os.environ[constants.REGISTRY_STORE_URI_ENV_VAR] = location.uri
    if location.artifacts is not None:
        os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = location.artifacts
    import uvicorn

    with warnings.catch_warnings(action="ignore"):  # of MLflow's use of its own libraries
        from mlflow.server.fastapi_app import app
    quiet_warnings()
    quiet_loggers()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                on_ready()

    settings = uvicorn.Config(
        with_additions(app), log_level="error", access_log=False, timeout_graceful_shutdown=2, lifespan="on"
    )
    with closing(listening):
        Server(settings).run(sockets=[listening])


def with_additions(application: Application) -> Application:
    """The application, with :data:`ADDED` in the head of its page. Every other answer goes through untouched."""

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] != "GET":
            await application(scope, receive, send)
            return
        # no "not modified": a browser may hold the page as another server gave it
        conditions = (b"if-none-match", b"if-modified-since")
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0].lower() not in conditions]}
        began: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                began.update(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            whole = bytes(body).replace(b"</head>", ADDED + b"</head>", 1)
            fixed = [
                pair
                for pair in began["headers"]
                if pair[0].lower() not in (b"content-length", b"etag", b"last-modified")
            ]
            await send({**began, "headers": [*fixed, (b"content-length", str(len(whole)).encode())]})
            await send({"type": "http.response.body", "body": whole})

        await application(scope, receive, collect)

    return answer
