"""Questions that may hang (a broken driver, a library's import): asked in a process of their own, bounded in time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

Facts = dict[str, Any]


def ask(module: str, *arguments: str, seconds: float, environment: Mapping[str, str] = os.environ) -> Facts:
    """What ``python -m module arguments`` answers by :func:`answer`; ``{"error": ...}`` when it does not within the time."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)},
    )
    try:
        said, complained = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs inside the kernel is not waited for
            process.communicate(timeout=1.0)
        return {"error": f"there was no answer within {seconds:g} s", "hangs": True}
    lines = said.strip().splitlines()
    if process.returncode != 0 or not lines:
        last = (complained.strip().splitlines() or ["without a word"])[-1]
        return {"error": f"the question ended with code {process.returncode}: {last}"}
    try:
        facts: Facts = json.loads(lines[-1])  # what libraries print stands before it
    except ValueError:
        return {"error": f"the answer could not be read: {lines[-1][:200]}"}
    return facts


def answer(questions: Mapping[str, Callable[..., Facts]]) -> None:
    """The other side: prints what the function answers that the first argument names, given the other arguments."""
    sys.stdout.write(json.dumps(questions[sys.argv[1]](*sys.argv[2:])) + "\n")
