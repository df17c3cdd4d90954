"""What descendants hold is counted, and no page twice. Real processes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

import pytest

from autotune.memory import family as family_module
from autotune.memory.process import ProcessMeter, private_bytes
from autotune.processes import children
from tests.autotune.memory.children import child, wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
MB = 1_000_000
HEAD = """
import mmap, os, subprocess, sys, time
held = []
def hold(megabytes):
    held.append(bytearray(b"x") * (megabytes * 1_000_000))
def forks(count, work=lambda: None):
    for _ in range(count):
        if os.fork() == 0:
            work()
            time.sleep(60)
            os._exit(0)
hold(100)
own = "import time; held = bytearray(b'x') * 60_000_000; time.sleep(60)"
"""
TAIL = "\nprint('up', flush=True)\ntime.sleep(60)"


@contextlib.contextmanager
def running(code: str) -> Iterator[int]:
    """The process of this code, which has 100 MB; it and all it has started are ended."""
    with child(HEAD + code + TAIL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        started = descendants(process.pid)
        try:
            yield process.pid
        finally:
            process.kill()
            for pid in started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)


def descendants(pid: int) -> list[int]:
    return list(family_module._descendants(pid))


def besides(pid: int, expected: int) -> int:
    """What a meter comes to read besides the process itself, in megabytes; waited for until it is near what is expected."""
    meter = ProcessMeter()
    deadline = time.monotonic() + 20
    while True:
        held, own = meter.device_bytes(pid), private_bytes(pid)
        assert held is not None
        assert own is not None
        found = round((held - own) / MB)
        settled = 20 - (deadline - time.monotonic()) > family_module.LOOK_SECONDS * 4
        if (settled and abs(found - expected) <= 10) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", 0),
        ("forks(3)", 0),
        ("forks(3, lambda: hold(20))", 60),
        ("hold(60)\nforks(3)\ndel held[-1]", 60),
        ("forks(1, lambda: (hold(60), forks(2)))\ntime.sleep(0.5)", 60),
        ("subprocess.Popen([sys.executable, '-c', own])\ntime.sleep(0.5)", 60),
        ("subprocess.Popen([sys.executable, '-c', own], start_new_session=True)\ntime.sleep(0.5)", 60),
        (
            "subprocess.Popen([sys.executable, '-c', own.replace('time.sleep', 'import os; os.fork(); time.sleep')])\n"
            "time.sleep(0.5)",
            60,
        ),
        (
            "block = mmap.mmap(-1, 60_000_000)\nread = lambda: sum(block[at] for at in range(0, 60_000_000, 4096))\n"
            "block.write(b'x' * 60_000_000)\nforks(3, read)",
            0,
        ),
    ],
    ids=[
        "alone",
        "workers that only read",
        "workers that write",
        "what the first has let go of",
        "a worker of a worker",
        "another program",
        "another program in a session of its own",
        "another program that forks",
        "shared memory",
    ],
)
def test_what_descendants_hold_counts_once(code: str, expected: int) -> None:
    with running(code) as pid:
        assert abs(besides(pid, expected) - expected) <= 10


def test_programs_that_are_being_started_are_not_counted() -> None:
    """Until it runs its own program a started process shows its parent's memory, or has it."""
    code = """
def go():
    for _ in range(10**6):
        subprocess.run(["true"])
        started = os.fork()
        if started == 0:
            os.execvp("true", ["true"])
        os.waitpid(started, 0)
import threading
threading.Thread(target=go, daemon=True).start()
"""
    with running(code) as pid:
        meter, highest = ProcessMeter(), 0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            highest = max(highest, meter.device_bytes(pid) or 0)
        assert 100 * MB < highest < 150 * MB


def test_a_process_in_its_parents_memory_holds_nothing_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("forks(1)") as pid:
        (forked,) = descendants(pid)
        assert not family_module._same_memory(forked, pid)
        monkeypatch.setattr(family_module, "memory_lines", lambda _: [b"VmRSS: 5 kB"])
        assert family_module._same_memory(forked, pid)
        assert besides(pid, 0) == 0


def test_growth_counts_at_once() -> None:
    with running("forks(1, lambda: (time.sleep(2), hold(60)))") as pid:
        (forked,) = descendants(pid)
        meter = ProcessMeter()
        before = meter.device_bytes(pid)
        time.sleep(family_module.LOOK_SECONDS * 1.2)
        assert meter.device_bytes(pid)
        meter._families[pid]._next_look = float("inf")
        assert before is not None
        wait_until(lambda: (meter.device_bytes(pid) or 0) > before + 55 * MB)
        os.kill(forked, 9)
        wait_until(lambda: (meter.device_bytes(pid) or 0) < before + 5 * MB)


@pytest.mark.parametrize(("code", "expected"), [("forks(3)", 0), ("subprocess.Popen([sys.executable, '-c', own])", 60)])
def test_a_kernel_that_tells_no_shares(monkeypatch: pytest.MonkeyPatch, code: str, expected: int) -> None:
    monkeypatch.setattr(family_module, "_share", lambda _: None)
    with running(code) as pid:
        assert abs(besides(pid, expected) - expected) <= 15


def test_children_are_known_without_the_kernels_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("forks(2)") as pid:
        told = sorted(children(pid))
        assert len(told) == 2
        monkeypatch.setattr("autotune.processes._tells_children", lambda: False)
        assert sorted(children(pid)) == told
    assert children(2**22 + 5) == [], "there is no such process"
    monkeypatch.undo()
    assert children(2**22 + 5) == []


def test_a_reading_stays_cheap_where_nothing_was_started() -> None:
    with running("") as pid:
        meter = ProcessMeter()
        spent, readings, end = time.thread_time(), 0, time.monotonic() + 1
        while time.monotonic() < end:
            meter.device_bytes(pid)
            readings += 1
        assert (time.thread_time() - spent) / readings < 0.001
