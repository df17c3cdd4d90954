"""The command line in a process that has imported what commands import: each command is a fork of it and starts at once.

A command's imports take five to ten seconds of a processor, more than most commands of the tests take otherwise. That the
command line starts from nothing is tested by README's commands, by ``.ci/run``, and wherever a test starts ``command()``.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
IMPORTED = (
    "autotune.study.run",
    "autotune.study.view",
    "autotune.study.pricing",
    "autotune.runner.tuning",
    "autotune.report.picture",
    "autotune.tracking.delivery",
    "sklearn.metrics",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.auto.tokenization_auto",
    "torch._dynamo",  # tracing needs it
    "peft",
    "matplotlib.pyplot",
)


def run_warm(
    words: list[str], *, cwd: Path | None, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """``autotune`` with these words, in a fork of the warm process of this test process.

    Raises:
        subprocess.TimeoutExpired: it took longer; it has been killed, and whatever it started in its process group.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("out", "err")]
        request = {"words": words, "cwd": str(cwd or Path.cwd()), "environment": environment, "files": files}
        code = _server().ask({**request, "timeout": timeout})
        out, err = (Path(file).read_text(encoding="utf-8") for file in files)
    if code is None:
        raise subprocess.TimeoutExpired(["autotune", *words], timeout, output=out, stderr=err)
    return subprocess.CompletedProcess(["autotune", *words], code, out, err)


class _Server:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.autotune.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        atexit.register(self._end)

    def ask(self, request: dict[str, object]) -> int | None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        code: int | None = json.loads(self._process.stdout.readline())
        return code

    def _end(self) -> None:
        self._process.communicate()  # it ends when it reads the end of its input


@lru_cache(maxsize=1)
def _server() -> _Server:
    return _Server()


def _become(request: dict[str, object]) -> None:
    """In the fork: take over streams, folder and environment, as if it had been started with them."""
    os.setpgid(0, 0)
    for file, stream in zip(("/dev/null", *request["files"]), (0, 1, 2), strict=True):  # type: ignore[misc]  # a list of two
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]  # a dictionary of texts
    random.seed()  # Ray draws its ports: forks of one process must not all draw the same
    sys.argv = ["autotune", *request["words"]]  # type: ignore[misc]  # a list of texts


def _run(main: Callable[[], None]) -> int:
    """The exit code of the command line."""
    try:
        main()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does at its top: the traceback, and 1
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """What an interpreter does at its end, but for taking hundreds of modules apart, which in a fork costs seconds."""
    threading._shutdown()  # type: ignore[attr-defined]  # joins threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _await(pid: int, timeout: float) -> int | None:
    """The exit code of the fork, as a shell has it; None where it had to be killed."""
    late = False

    def end(*_: object) -> None:
        nonlocal late
        late = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    _, status = os.waitpid(pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return None if late else os.waitstatus_to_exitcode(status)


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    from autotune.cli import main

    gc.freeze()  # what is there is shared with the forks and stays as it is
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            _become(request)
            _end(_run(main))
        sys.stdout.write(json.dumps(_await(pid, request["timeout"])) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
