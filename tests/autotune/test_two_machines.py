"""A study over two machines: what the driver's stored reaches the other. The second is a Ray node of this machine that sees another
folder where the store lies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from autotune.runner.session import SETTINGS
from autotune.search import StudyRecord

from .mlflow_server import free_port
from .small_study import autotune, make_inputs

SECONDS = 90.0
HIDES = next(
    (
        words
        for words in (("unshare", "--mount"), ("unshare", "--map-root-user", "--mount"))
        if sys.platform.startswith("linux")
        and subprocess.run([*words, "mount", "--bind", "/proc", "/proc"], capture_output=True, check=False).returncode
        == 0
    ),
    None,
)
"""What starts a program with mounts of its own."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(HIDES is None, reason="no mounts of one's own: neither root's nor a user namespace's"),
]


@contextmanager
def nodes(folder: Path, hidden: Path, shown: Path) -> Iterator[str]:
    """Ray's address of a cluster of two nodes of two cores; the second sees ``shown`` where ``hidden`` lies."""
    own = tempfile.mkdtemp(prefix="ray-")  # sockets lie below it, and the system takes only short paths of these
    port = free_port()
    ray = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--num-cpus=2",
        "--object-store-memory=80000000",
        "--block",
    ]
    head = [
        *ray,
        "--head",
        f"--port={port}",
        "--include-dashboard=false",
        f"--temp-dir={own}",
    ]
    mounted = [*(HIDES or ()), "sh", "-c", f'mount --bind "{shown}" "{hidden}" && exec "$@"', "sh"]
    begun: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate((head, [*mounted, *ray, f"--address=127.0.0.1:{port}"])):
            said = folder / f"node{number}.log"
            with said.open("wb") as log:
                begun.append(subprocess.Popen(command, env={**os.environ, **SETTINGS}, stdout=log, stderr=log))
            deadline = time.monotonic() + SECONDS
            while "Ray runtime started" not in said.read_text():
                assert begun[-1].poll() is None, said.read_text()
                assert time.monotonic() < deadline, said.read_text()
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        for node in reversed(begun):
            node.terminate()
            node.wait(SECONDS)
        shutil.rmtree(own)


def test_what_the_driver_stored_reaches_the_other_machine(tmp_path: Path) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    store.mkdir()
    other.mkdir()
    with nodes(tmp_path, store, other) as address:
        autotune(
            "run",
            options={
                **make_inputs(tmp_path),
                "--memory-cap": "2GB",
                "--trials": "6",
                "--seed": "3",
                "--study-dir": str(tmp_path / "study"),
                "--features": str(store),
                "--ray-address": address,
            },
        )
    here, there = ({path.read_bytes() for path in root.rglob("*.bin")} for root in (store, other))
    assert here
    assert there <= here
    assert there, "no trial ran on the other machine"
    with StudyRecord.open(tmp_path / "study" / "study.db") as record:
        trials = [trial.outcome for trial in record.trials() if trial.outcome is not None]
    told = [outcome.details["features"] for outcome in trials if "features" in outcome.details]
    assert any(one["read"] for one in told)
    assert [one for one in told if one.get("why")] == []
