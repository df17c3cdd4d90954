"""Builds a store in children that are killed or that run at once; run as a program, so that it forks with no other thread.

    python -m tests.autotune.features.builders <what> <root> [seed ...]

Prints one JSON line of what it saw. Whatever is wrong is in its list ``wrong``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from autotune.features import locks
from autotune.features.store import FeatureStore
from tests.autotune.features.samples import FIRST, KEY, SECOND, build, is_right, padded, ragged, row_values

LENGTHS = [30 + number % 17 for number in range(64)]
LAYOUTS = {FIRST: ragged(LENGTHS, width=96), SECOND: ragged(LENGTHS, width=96)}
BATCHES = [np.arange(start, start + 8) for start in range(0, 64, 8)]
KNOWN = {place: row_values(layout, place[1]) for place, layout in LAYOUTS.items()}


def build_in_batches(root: Path) -> int:
    """As :func:`build`, in eight batches of rows; how many places there were to write."""
    with FeatureStore.open(root, KEY).writer("train", LAYOUTS) as writer:
        for rows in BATCHES:
            for place, layout in LAYOUTS.items():
                if place in writer.places:
                    writer.put(place, rows, padded([KNOWN[place][row] for row in rows], layout))
        return len(writer.places)


def forked(work: Callable[[], int]) -> int:
    """The pid of a child that does some work; its exit status is what the work gives back."""
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        status = work()
    finally:
        os._exit(status)


def what_is_wrong(root: Path) -> list[str]:
    """Opens the store after a kill: what is there must be right, and nothing else may be left."""
    store = FeatureStore.open(root, KEY)
    wrong = [
        f"{place} is there and not right: {store.notes}"
        for place, layout in LAYOUTS.items()
        if store.has("train", place) and not is_right(store, {place: layout})
    ]
    names = {path.name for path in store.folder.iterdir()} - {"meta.json", "train.lock"}
    whole = {path.name for one in store._folder.manifests() for path in (one.path, one.values)}
    return wrong + [f"left over: {name}" for name in sorted(names - whole)]


def outcome(root: Path, pid: int) -> tuple[str, list[str]]:
    """How a child ended, and what is wrong then and after a second build."""
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    folder = next(root.iterdir(), root)
    half = killed and any(path.suffix in (".bin", ".tmp") for path in folder.iterdir())
    wrong = what_is_wrong(root)
    if not killed and os.WEXITSTATUS(status) != len(LAYOUTS):
        wrong.append(f"the child ended with {status}")
    build(FeatureStore.open(root, KEY), LAYOUTS)
    if not is_right(FeatureStore.open(root, KEY), LAYOUTS):
        wrong.append("not right after it was built again")
    shutil.rmtree(root)
    return ("finished" if not killed else "half-written" if half else "killed"), wrong


def kill_at_random(root: Path, seed: int) -> tuple[str, list[str]]:
    """A child is killed at some moment of its work."""
    began = time.perf_counter()
    build_in_batches(root)
    seconds = time.perf_counter() - began
    shutil.rmtree(root)
    root.mkdir()
    pid = forked(lambda: build_in_batches(root))
    time.sleep(random.Random(seed).uniform(0, 1.1 * seconds))
    os.kill(pid, signal.SIGKILL)
    return outcome(root, pid)


def kill_at_call(root: Path, number: int) -> tuple[str, list[str]]:
    """A child kills itself at a call to the system; a write is half done by then."""
    root.mkdir()
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                if real is pwrite:
                    descriptor, content, offset = arguments
                    pwrite(descriptor, content[: len(content) // 2], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return call

    pwrite = os.pwrite

    def work() -> int:
        for name in ("pwrite", "fsync", "replace", "posix_fallocate"):
            setattr(os, name, counted(getattr(os, name)))
        return build_in_batches(root)

    return outcome(root, forked(work))


def at_once(root: Path, *, locked: bool) -> dict[str, Any]:
    """Three children build the same at once: how many places each wrote, and what is wrong."""
    root.mkdir()
    if not locked:
        locks.fcntl = None  # type: ignore[assignment]  # as on a platform without locks
    pids = [forked(lambda: build_in_batches(root)) for _ in range(3)]
    wrote = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    wrong = [] if not locked else what_is_wrong(root)
    store = FeatureStore.open(root, KEY)
    if not is_right(store, LAYOUTS):
        wrong.append("not right")
    return {"wrote": wrote, "wrong": wrong, "files": len(list(store.folder.glob("*.bin"))), "notes": store.notes}


def main(what: str, root: Path, numbers: list[int]) -> dict[str, Any]:
    if what in ("locked", "unlocked"):
        return at_once(root / "store", locked=what == "locked")
    kill = {"random": kill_at_random, "call": kill_at_call}[what]
    ends = [kill(root / str(number), number) for number in numbers]
    return {"ended": [end for end, _ in ends], "wrong": [wrong for _, wrong in ends if wrong]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], Path(sys.argv[2]), [int(number) for number in sys.argv[3:]])))
