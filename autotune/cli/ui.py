"""``autotune ui``: a study in MLflow's pages."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import webbrowser
from typing import Annotated

import typer

from autotune.cli.options import StudyDir

UI_HELP = """Open MLflow on a study: the front as a picture, what was selected and why, and every trial.

Serves the study's own store on this machine until Ctrl-C. Of a study whose runs went to an MLflow server, it says where they
are. Also while the study runs; nothing of it is changed.

Examples:

  autotune ui

  autotune ui --study-dir studies/mine --port 5001 --no-browser
"""


def ui(
    study_dir: StudyDir = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="The port. By default 5000, or a free one where that is taken."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    open_to_network: Annotated[
        bool,
        typer.Option("--open-to-network", help="Allow a --host that others reach. MLflow asks them for no password."),
    ] = False,
) -> None:
    """See :data:`UI_HELP`."""
    from autotune.errors import ConfigError
    from autotune.study.showing import find_in_mlflow
    from autotune.tracking.ui import LOOPBACK, listening_socket, serve

    if host not in LOOPBACK and not open_to_network:
        raise ConfigError(
            f"--host {host} would let everybody who reaches this machine read and change the study's runs: MLflow asks for "
            f"no password. Allowed are {', '.join(LOOPBACK)}; from elsewhere, `ssh -L 5000:127.0.0.1:5000 THIS-MACHINE` "
            "shows it to you alone. If everybody may: --open-to-network."
        )
    shown = find_in_mlflow(study_dir, on_note=_warn)
    if not shown.served:
        typer.echo(shown.address())
        if browser:
            _open(shown.address())
        return
    if host not in LOOPBACK:
        _warn(
            f"everybody who reaches {host} can read and change these runs. Only hosts that MLFLOW_SERVER_ALLOWED_HOSTS names are let in by name."
        )
    listening = listening_socket("127.0.0.1" if host == "localhost" else host, port)
    taken = listening.getsockname()[1]
    visible = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    address = shown.address(f"http://[{visible}]:{taken}" if ":" in visible else f"http://{visible}:{taken}")

    def ready() -> None:
        typer.echo(f"{address}\nCtrl-C ends it.")
        sys.stdout.flush()
        if browser:
            _open(address)

    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        serve(shown.location, listening, ready)
    typer.echo("Ended.")


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)


def _open(address: str) -> None:
    """In a browser with a window; one for terminals would take over this one."""
    windows = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if windows and sys.stdout.isatty():
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
