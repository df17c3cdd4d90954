"""The guard against real processes: it ends the one that goes over the cap, and no other."""

from __future__ import annotations

import math
import os
import signal
import threading
import time

import pytest

from autotune.errors import DeviceError
from autotune.memory import guard as guard_module
from autotune.memory.guard import Guard
from autotune.memory.process import ProcessMeter, private_bytes
from tests.autotune.memory.children import child, run, wait_until

MB = 1_000_000
GROWS = """
import time
held = []
print("ready", flush=True)
while True:
    held.append(b"x" * 4_000_000)
    time.sleep(0.01)
"""
IDLES = "import time\nprint('ready', flush=True)\ntime.sleep(60)"
IGNORES_SIGTERM = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


class FakeMeter:
    """Says what it is told to say; an exception is raised."""

    name = "fake"
    source = "a fake"

    def __init__(self, *readings: int | Exception | None) -> None:
        self.readings = list(readings)

    def device_bytes(self, pid: int) -> int | None:
        del pid
        reading = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if isinstance(reading, Exception):
            raise reading
        return reading


class Hanging(FakeMeter):
    """Takes seconds for its last reading."""

    def device_bytes(self, pid: int) -> int | None:
        if len(self.readings) == 1:
            time.sleep(3)
        return super().device_bytes(pid)


def test_a_breach_ends_the_process_and_leaves_others_alone() -> None:
    breaches: list[Guard] = []
    with child(GROWS) as greedy, child(IDLES) as other:
        assert greedy.stdout is not None
        greedy.stdout.readline()
        cap = 60 * MB
        with Guard(greedy.pid, cap, ProcessMeter(), 0.01, on_breach=breaches.append) as guard:
            assert greedy.wait(timeout=30) == -signal.SIGTERM
            wait_until(lambda: guard.breached and bool(breaches))
        assert guard.peak_bytes > cap
        assert guard.peak_bytes < cap + 40 * MB, "it was ended soon after the breach"
        assert breaches == [guard]
        assert not guard.blind
        for words in ("60.00 MB (57.22 MiB)", "process private bytes", "over the cap"):
            assert words in guard.reason
        assert other.poll() is None


def test_under_the_cap_nothing_happens_and_the_peak_is_kept() -> None:
    code = "held = b'x' * 50_000_000\nprint('up', flush=True)\ninput_ = __import__('time').sleep(0.5)\ndel held\nprint('down', flush=True)\n__import__('time').sleep(60)"
    with child(code) as process:
        assert process.stdout is not None
        with Guard(process.pid, 500 * MB, ProcessMeter(), 0.02) as guard:
            assert process.stdout.readline() == "up\n"
            assert process.stdout.readline() == "down\n"
            wait_until(lambda: guard.peak_bytes > 0)
            now = private_bytes(process.pid)
        assert process.poll() is None
        assert not guard.breached
        assert guard.reason == ""
        assert now is not None
        assert guard.peak_bytes >= 50 * MB > now


def test_a_process_that_will_not_go_is_killed() -> None:
    with child(IGNORES_SIGTERM + IDLES) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Guard(process.pid, 1 * MB, ProcessMeter(), 0.01, grace_s=0.3) as guard:
            assert process.wait(timeout=20) == -signal.SIGKILL
        assert guard.breached


def test_a_process_that_goes_on_growing_is_killed_before_the_grace_is_over() -> None:
    with child(IGNORES_SIGTERM + GROWS) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        with Guard(process.pid, 40 * MB, ProcessMeter(), 0.01, grace_s=30) as guard:
            assert process.wait(timeout=20) == -signal.SIGKILL
        assert time.monotonic() - began < 20
        assert guard.breached


def test_a_process_that_vanishes_ends_the_watch() -> None:
    with child("pass") as process:
        with Guard(process.pid, 500 * MB, ProcessMeter(), 0.01) as guard:
            process.wait(timeout=20)
            wait_until(lambda: not guard._thread.is_alive())
        assert not guard.breached
        assert guard.reason == ""
    with Guard(process.pid, 500 * MB, ProcessMeter(), 0.01) as late:
        wait_until(lambda: not late._thread.is_alive())
    assert late.peak_bytes == 0


@pytest.mark.parametrize("with_descriptors", [True, False])
def test_a_pid_that_was_given_away_is_never_touched(monkeypatch: pytest.MonkeyPatch, with_descriptors: bool) -> None:
    """The start time changes under the guard: the pid is another process's now."""
    if not with_descriptors:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    with child(IDLES) as process:
        guard = Guard(process.pid, 1, FakeMeter(10 * MB), 0.01)
        monkeypatch.setattr(guard_module, "started", lambda pid: 1.0)
        with guard:
            wait_until(lambda: not guard._thread.is_alive())
        time.sleep(0.1)
        assert process.poll() is None
        assert not guard.breached


def test_without_descriptors_it_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with child(IDLES) as process, Guard(process.pid, 1, FakeMeter(10 * MB), 0.01) as guard:
        assert process.wait(timeout=20) == -signal.SIGTERM
        wait_until(lambda: guard.breached)


def test_a_meter_that_fails_for_a_moment_is_forgiven() -> None:
    with child(IDLES) as process:
        meter = FakeMeter(DeviceError("busy"), DeviceError("busy"), 5 * MB, DeviceError("busy"), None, 7 * MB)
        with Guard(process.pid, 100 * MB, meter, 0.01, blind_after_s=10) as guard:
            wait_until(lambda: guard.peak_bytes == 7 * MB)
        assert process.poll() is None
        assert not guard.blind


def test_a_meter_that_stays_blind_ends_the_process() -> None:
    with child(IDLES) as process:
        meter = FakeMeter(3 * MB, DeviceError("the driver is gone"))
        with Guard(process.pid, 100 * MB, meter, 0.01, blind_after_s=0.2) as guard:
            assert process.wait(timeout=20) == -signal.SIGTERM
            wait_until(lambda: guard.blind)
        assert not guard.breached
        assert "the driver is gone" in guard.reason
        assert guard.peak_bytes == 3 * MB


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), ValueError("no number"), MemoryError()])
def test_whatever_a_meter_raises_is_a_reading_that_failed(error: Exception) -> None:
    with child(IDLES) as process:
        meter = FakeMeter(error, error, 5 * MB, error)
        with Guard(process.pid, 100 * MB, meter, 0.01, blind_after_s=0.3) as guard:
            assert process.wait(timeout=20) == -signal.SIGTERM
            wait_until(lambda: guard.blind)
        assert guard.peak_bytes == 5 * MB, "it went on after the first failures"
        assert type(error).__name__ in guard.reason
        assert str(error) in guard.reason
        assert guard.silent_s == 0.0
        assert guard.unheld() == ""


@pytest.mark.parametrize("held_by_descriptor", [True, False])
def test_it_holds_the_cap_where_its_own_process_has_no_descriptor_left(held_by_descriptor: bool) -> None:
    """A reading opens a file of /proc. Where the process cannot be looked up it is signalled by its descriptor or, without one,
    as soon as it can be looked up again."""
    finished = run(f"""
import os, resource, time
from autotune.memory.guard import Guard
from autotune.memory.process import ProcessMeter
from tests.autotune.memory.children import child, wait_until
if not {held_by_descriptor}:
    del os.pidfd_open
with child("import time; time.sleep(60)") as process:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Guard(process.pid, 400_000_000, ProcessMeter(), 0.01, blind_after_s=0.5) as guard:
        wait_until(lambda: guard.readings > 2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        time.sleep(0.1)
        assert process.poll() is None and not guard.blind
        wait_until(lambda: guard.blind)
        if {held_by_descriptor}:
            process.wait(timeout=20)
        else:
            time.sleep(0.2)
            assert process.poll() is None
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        process.wait(timeout=20)
    print(guard.reason)
""")
    assert finished.returncode == 0, finished.stderr
    assert "Too many open files" in finished.stdout


class Ended(BaseException):
    """No error that anybody expects."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_ends_by_itself_counts_as_blind() -> None:
    class Broken(FakeMeter):
        def device_bytes(self, pid: int) -> int | None:
            raise Ended("all of a sudden")

    with child(IDLES) as process, Guard(process.pid, 100 * MB, Broken(0), 0.01) as guard:
        assert process.wait(timeout=20) == -signal.SIGTERM
        wait_until(lambda: guard.blind)
    assert "Ended: all of a sudden" in guard.reason


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_watch_is_not_taken_for_a_closed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(guard: Guard) -> None:
        raise Ended

    monkeypatch.setattr(Guard, "_run", die)
    with child(IDLES) as process:
        guard = Guard(process.pid, 100 * MB, FakeMeter(0))
        assert guard.silent_s == 0.0, "it has not begun"
        with guard:
            wait_until(lambda: not guard._thread.is_alive())
            assert guard.silent_s == math.inf
            assert "died" in guard.unheld()
        assert guard.silent_s == 0.0
        assert guard.unheld() == ""


def test_a_meter_that_hangs_holds_no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "HANGING_SECONDS", 0.2)
    with child(IDLES) as process, Guard(process.pid, 100 * MB, Hanging(0, 0), 0.01) as guard:
        wait_until(lambda: "'fake' has not answered" in guard.unheld())
        assert process.poll() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_that_fails_does_not_save_the_process() -> None:
    def fail(_: Guard) -> None:
        raise RuntimeError("the listener")

    with child(IGNORES_SIGTERM + IDLES) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Guard(process.pid, 1 * MB, ProcessMeter(), 0.01, on_breach=fail, grace_s=0.1) as guard:
            assert process.wait(timeout=20) == -signal.SIGKILL
        assert guard.breached


@pytest.mark.parametrize("failing", [True, False], ids=["fails", "hangs"])
def test_a_meter_that_fails_after_the_breach_does_not_save_the_process(failing: bool) -> None:
    meter = FakeMeter(200 * MB, OSError(24, "Too many open files")) if failing else Hanging(200 * MB, 0)
    with child(IGNORES_SIGTERM + IDLES) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Guard(process.pid, 100 * MB, meter, 0.01, grace_s=0.2) as guard:
            began = time.monotonic()
            assert process.wait(timeout=20) == -signal.SIGKILL
            assert time.monotonic() - began < 2
        assert guard.breached
        assert not guard.blind


def test_where_no_thread_can_be_started_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with child(IDLES) as process:
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"), Guard(process.pid, MB, FakeMeter(0)):
            pass
        if before:
            assert len(os.listdir("/proc/self/fd")) == before


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="this one"):
        Guard(os.getpid(), MB, FakeMeter(0))
    with pytest.raises(ValueError, match="above zero"):
        Guard(1, 0, FakeMeter(0))


def test_it_is_cheap_and_leaves_no_thread() -> None:
    with child(IDLES) as process:
        before = threading.active_count()
        with Guard(process.pid, 500 * MB, ProcessMeter()) as guard:
            (thread,) = (one for one in threading.enumerate() if one.name == f"memory-guard-{process.pid}")
            assert thread.ident is not None
            clock = time.pthread_getcpuclockid(thread.ident)  # other threads of this process have work of their own
            spent, readings = time.clock_gettime(clock), guard.readings
            time.sleep(1.0)
            spent, readings = time.clock_gettime(clock) - spent, guard.readings - readings
        guard.close()
        assert threading.active_count() == before
        assert readings >= 5
        assert spent / readings < 0.05 / 20, "at most 5 % of a core at 20 readings a second"
