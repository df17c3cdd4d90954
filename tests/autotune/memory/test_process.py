"""Private bytes of real processes, and what stands for them elsewhere."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from autotune.memory import process as process_module
from autotune.memory.meter import METERS
from autotune.memory.process import ProcessMeter, own_private_bytes, private_bytes
from autotune.processes import started
from sherl.errors import UnknownNameError
from tests.autotune.memory.children import child, run, wait_until

MB = 1_000_000
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_what_a_process_writes_is_counted() -> None:
    before = own_private_bytes()
    block = bytearray(b"x" * 30 * MB)
    grown = own_private_bytes() - before
    assert 29 * MB < grown < 35 * MB
    del block
    assert own_private_bytes() - before < 5 * MB


@linux
def test_pages_of_files_are_not_counted_and_shared_memory_is(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"x" * 20 * MB)
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        before = own_private_bytes()
        total = sum(mapped[place] for place in range(0, 20 * MB, 4096))
        assert total > 0
        assert own_private_bytes() - before < 3 * MB
    before = own_private_bytes()
    with mmap.mmap(-1, 20 * MB, flags=mmap.MAP_SHARED) as shared:
        for place in range(0, 20 * MB, 4096):
            shared[place] = 1
        assert own_private_bytes() - before > 19 * MB


@linux
def test_a_forked_process_is_charged_for_what_it_inherited() -> None:
    finished = run(
        """
import os
from autotune.memory.process import own_private_bytes
held = b"x" * 50_000_000
if os.fork() == 0:
    print(own_private_bytes() > 50_000_000, flush=True)
else:
    os.wait()
"""
    )
    assert finished.stdout.strip() == "True", finished.stderr


def test_a_process_that_is_gone_has_no_bytes() -> None:
    with child("pass") as process:
        if sys.platform.startswith("linux"):
            # a zombie: its parent has not asked yet; its memory goes a moment before its state shows that
            wait_until(lambda: private_bytes(process.pid) is None)
            wait_until(lambda: started(process.pid) is None)
        process.wait()
        assert private_bytes(process.pid) is None
        assert started(process.pid) is None
        assert ProcessMeter().device_bytes(process.pid) is None


def test_the_start_names_a_process() -> None:
    assert started(os.getpid()) == started(os.getpid()) is not None


def test_names_with_brackets_do_not_confuse_it() -> None:
    code = "import ctypes, time\nctypes.CDLL(None).prctl(15, b') Z (x) ')\nprint('up', flush=True)\ntime.sleep(60)"
    if not sys.platform.startswith("linux"):
        pytest.skip("sets a process's name as Linux does")
    with child(code) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert started(process.pid) is not None


def test_elsewhere_psutil_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module.sys, "platform", "darwin")
    real = psutil.Process().memory_full_info().uss
    measured = private_bytes(os.getpid())
    assert measured is not None
    assert abs(measured - real) < 20 * MB
    assert started(os.getpid()) == psutil.Process().create_time()
    with child("pass") as process:
        process.wait()
        assert private_bytes(process.pid) is None
        assert started(process.pid) is None

    class Closed:
        def __init__(self, pid: int) -> None: ...

        def status(self) -> str:
            return "running"

        def memory_full_info(self) -> None:
            raise psutil.AccessDenied

        def memory_info(self) -> SimpleNamespace:
            return SimpleNamespace(rss=7)

    monkeypatch.setattr(psutil, "Process", Closed)
    assert private_bytes(1) == 7, "a system that tells the resident set only"


def test_meters_are_found_by_name() -> None:
    meter = METERS.get("process")()
    assert (meter.name, meter.source) == ("process", "process private bytes")
    assert meter.device_bytes(os.getpid())
    assert "nvml" in METERS
    with pytest.raises(UnknownNameError, match="process"):
        METERS.get("proces")
