"""``autotune ui`` as a person starts it, until Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.autotune.mlflow_server import START_SECONDS
from tests.autotune.small_study import command, environment


@contextlib.contextmanager
def running_ui(study: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the address that it printed; it is ended by Ctrl-C where the block has not ended it."""
    process = subprocess.Popen(
        command("ui", "--study-dir", study, "--no-browser", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in environment().items() if not name.startswith("MLFLOW_")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    late = threading.Timer(START_SECONDS, process.kill)
    late.start()
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert process.stderr is not None
        assert address, process.stderr.read()
        assert process.stdout.readline() == "Ctrl-C ends it.\n"
        yield process, address
    finally:
        late.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
