"""Trial processes: fresh, guarded, ended with everything that must end them. Real processes, stand-in training."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

import autotune.trial.process as process_module
from autotune.errors import DeviceError, NoAnswerError
from autotune.memory.guard import Guard
from autotune.memory.process import ProcessMeter
from autotune.outcome import EpochReport, MemoryFigures, Outcome, Status
from autotune.trial.ancestry import Ancestor
from autotune.trial.fork_server import ForkServer
from autotune.trial.process import TrialProcess
from autotune.trial.request import (
    Epoch,
    Finished,
    Message,
    Rehearsed,
    Steps,
    TrialRequest,
    Unread,
    message_from_json,
    message_to_json,
)
from autotune.trial.verdict import death

from .stub_trials import outcome_of, start_stub

ROOT = Path(__file__).parents[2]
Start = Callable[..., TrialProcess]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """A fork server that has nothing to import."""
    with ForkServer(preload=()) as running:
        yield running


@pytest.fixture
def start(server: ForkServer, tmp_path: Path) -> Start:
    """Starts a stub trial: ``start(number, **settings)``."""

    def begin(number: int = 0, *, cap: int = 10**9, on: ForkServer = server, **settings: Any) -> TrialProcess:
        return start_stub(on, tmp_path / str(number), number, cap=cap, **settings)

    return begin


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process is gone (or a zombie that only waits to be read) within this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_events_come_in_order_and_end_with_the_outcome(start: Start) -> None:
    events = [*start(epochs=3).events()]
    assert [type(event) for event in events] == [Rehearsed, Epoch, Epoch, Epoch, Finished]
    outcome = events[-1].outcome  # type: ignore[union-attr]  # the line above says what it is
    assert outcome.status is Status.COMPLETE
    assert outcome.predicted == MemoryFigures(allocated=1, device=3 * 10**8, meter="prediction")
    assert outcome.peak is not None
    assert outcome.peak.allocated == 1000
    assert outcome.peak.device > 10**6  # what the guard saw, not what the stub claimed
    assert outcome.peak.meter == "process private bytes"
    assert max(held for _, held in outcome.memory_over_time) == outcome.peak.device
    assert 0.0 <= outcome.memory_over_time[0][0] <= outcome.memory_over_time[-1][0] <= outcome.seconds


def test_that_it_could_not_read_is_known_of_a_trial_that_was_ended(start: Start) -> None:
    ended = outcome_of(start(unread="the disk is gone", do="allocate", blocks=100, block_bytes=10**7, cap=3 * 10**8))
    assert (ended.status, ended.unread) == (Status.OVER_CAP, "the disk is gone")
    assert outcome_of(start(do="sigkill")).unread is None


def test_each_trial_is_a_fresh_process_that_shares_nothing(start: Start) -> None:
    outcomes = [outcome_of(start(number)) for number in range(3)]
    assert [outcome.details["notes"] for outcome in outcomes] == [[0], [1], [2]]
    assert len({outcome.details["pid"] for outcome in outcomes}) == 3
    assert all(gone(outcome.details["pid"]) for outcome in outcomes)


def test_no_zombies_are_left(start: Start, server: ForkServer) -> None:
    for number in range(5):
        outcome_of(start(number, do="sigkill" if number % 2 else ""))
    time.sleep(0.2)
    assert psutil.Process(server.pid).children() == []


@pytest.mark.parametrize(
    ("do", "words"),
    [
        ("segfault", ["SIGSEGV", "Segmentation fault"]),
        ("sigkill", ["SIGKILL"]),
        ("exit", ["exit code 3"]),
        ("hard_exit", ["exit code 7"]),
        ("raise", ["exit code 1", "RuntimeError: the stub was told to fail: ünïcode 🙂"]),
        ("close_channel", ["exit code 0"]),
    ],
)
def test_a_death_without_a_word_is_a_failure_with_its_reason(start: Start, do: str, words: list[str]) -> None:
    outcome = outcome_of(start(7, do=do, epochs=2))
    assert outcome.status is Status.FAILED
    assert "Trial 7" in outcome.reason
    for word in words:
        assert word in outcome.reason
    assert [report.epoch for report in outcome.epochs] == [1]
    assert outcome.metric == 0.1
    assert not outcome.status.has_metric
    assert outcome.checkpoint is None


def test_a_breach_ends_the_trial_and_no_other(start: Start) -> None:
    bystander = start(1, epochs=4, epoch_seconds=0.3)
    greedy = start(2, cap=200 * 10**6, do="allocate", blocks=500, block_bytes=4 * 10**6)
    outcome = outcome_of(greedy)
    assert outcome.status is Status.OVER_CAP
    assert outcome.peak is not None
    assert 200 * 10**6 < outcome.peak.device < 260 * 10**6
    assert max(held for _, held in outcome.memory_over_time) == outcome.peak.device
    for word in ("Trial 2", "over the cap of 200.00 MB", "predicted 300.00 MB"):
        assert word in outcome.reason
    assert outcome_of(bystander).status is Status.COMPLETE


class Failing(ProcessMeter):
    """Cannot be read once the trial has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.readings = 0

    def device_bytes(self, pid: int) -> int | None:
        self.readings += 1
        if self.readings > 3:
            raise OSError(24, "Too many open files")
        return super().device_bytes(pid)


def test_a_meter_that_fails_in_any_way_interrupts_the_trial(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "Guard", partial(Guard, blind_after_s=0.2))
    outcome = outcome_of(start(do="hang", guard_meter=Failing()))
    assert outcome.status is Status.INTERRUPTED
    assert "Too many open files" in outcome.reason
    assert "could no longer be held" in outcome.reason


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_watch_that_dies_interrupts_the_trial(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(_: Guard) -> None:
        raise KeyError("a fault of the guard's own")

    monkeypatch.setattr(Guard, "_run", die)
    outcome = outcome_of(start(do="hang"))
    assert outcome.status is Status.INTERRUPTED
    assert "has died" in outcome.reason


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("can't start new thread")])
def test_a_trial_that_cannot_be_watched_is_not_begun(
    start: Start, server: ForkServer, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any) -> Guard:
        raise error

    before = set(psutil.Process(server.pid).children())
    monkeypatch.setattr(process_module, "Guard", refuse)
    with pytest.raises(NoAnswerError, match=f"{str(error)[-12:]}.*ulimit"):
        start(7, do="hang")
    end = time.monotonic() + 10
    while set(psutil.Process(server.pid).children()) - before:
        assert time.monotonic() < end, "the process that was forked for it is left"
        time.sleep(0.02)


def test_stop_ends_it_at_once_and_keeps_what_is_known(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "GRACE_SECONDS", 60.0)
    process = start(do="hang")
    while not isinstance(process.poll(), Epoch):
        pass
    began = time.monotonic()
    outcome = process.stop("not promising")
    assert time.monotonic() - began < 20.0
    assert (outcome.status, outcome.reason) == (Status.STOPPED, "not promising")
    assert len(outcome.epochs) == 1
    assert outcome.peak is not None
    assert max(held for _, held in outcome.memory_over_time) == outcome.peak.device
    assert gone(process.pid)
    assert process.stop("again") == outcome


def test_stop_does_not_depend_on_the_trials_consent(start: Start) -> None:
    process = start(do="hang", stubborn=True)
    while not isinstance(process.poll(), Epoch):
        pass
    began = time.monotonic()
    assert process.stop("time is up", Status.INTERRUPTED).status is Status.INTERRUPTED
    assert time.monotonic() - began < 20.0


def test_stop_after_the_end_changes_nothing(start: Start) -> None:
    process = start()
    outcome = outcome_of(process)
    assert process.stop("too late") == outcome
    assert process.poll(0) == Finished(outcome)


def test_poll_returns_in_time_when_nothing_comes(start: Start) -> None:
    process = start(epochs=1, epoch_seconds=30)
    assert isinstance(process.poll(10), Rehearsed)
    began = time.monotonic()
    assert process.poll(0.2) is None
    assert time.monotonic() - began < 10.0
    process.stop("enough")


def test_what_a_trial_has_started_ends_with_it(start: Start, tmp_path: Path) -> None:
    outcome = outcome_of(start(5, do="helper", epochs=1))
    assert outcome.status is Status.COMPLETE
    helper = int((tmp_path / "5" / "trial.log").read_text().split()[1])
    assert gone(helper)


def daemon_of(log: Path) -> int:
    """The process that a trial which does ``daemon`` has left."""
    end = time.monotonic() + 20
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < end
        time.sleep(0.02)
    return int(log.read_text().split()[1])


linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the system's first process gets them elsewhere"
)


@linux
def test_what_has_left_its_group_and_session_ends_with_it_too(start: Start, tmp_path: Path) -> None:
    other = start(6, do="daemon", epochs=1, hold_seconds=600)
    theirs = daemon_of(tmp_path / "6" / "trial.log")
    assert outcome_of(start(5, do="daemon", epochs=1)).status is Status.COMPLETE
    assert not psutil.pid_exists(daemon_of(tmp_path / "5" / "trial.log")), "before the outcome is told"
    assert psutil.pid_exists(theirs), "another trial's is left alone"
    other.stop("enough")
    assert not psutil.pid_exists(theirs)


@linux
def test_it_ends_with_a_trial_that_was_killed_and_with_the_server(tmp_path: Path) -> None:
    with ForkServer(preload=()) as server:
        process = start_stub(server, tmp_path / "1", 1, do="daemon", epochs=1, hold_seconds=600)
        first = daemon_of(tmp_path / "1" / "trial.log")
        os.kill(process.pid, signal.SIGKILL)
        assert outcome_of(process).status is Status.FAILED
        assert not psutil.pid_exists(first)
        kept = start_stub(
            server, tmp_path / "2", 2, do="daemon", epochs=1, hold_seconds=600
        )  # else its end would end it
        second = daemon_of(tmp_path / "2" / "trial.log")
    assert not psutil.pid_exists(second)
    del kept


@linux
def test_what_a_trial_has_started_counts_under_its_cap(start: Start) -> None:
    outcome = outcome_of(start(8, cap=200 * 10**6, do="daemon", epochs=1, block_bytes=300 * 10**6, hold_seconds=600))
    assert outcome.status is Status.OVER_CAP
    assert outcome.peak is not None
    assert 200 * 10**6 < outcome.peak.device < 700 * 10**6


@linux
def test_what_imports_have_started_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "starts_a_helper.py").write_text(
        "import subprocess, sys\nHELPER = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    )
    with ForkServer(preload=("starts_a_helper",), path=[str(tmp_path), *sys.path]) as server:
        server.wait_ready()
        (helper,) = psutil.Process(server.pid).children()
        assert outcome_of(start_stub(server, tmp_path / "0")).status is Status.COMPLETE
        assert helper.is_running()
        assert helper.status() != psutil.STATUS_ZOMBIE
        helper.kill()


def test_a_bad_end_keeps_no_checkpoint(start: Start, tmp_path: Path) -> None:
    process = start(3, do="hang")
    while not isinstance(process.poll(), Epoch):
        pass
    kept = tmp_path / "3" / "checkpoint"
    kept.mkdir()
    (kept / "sherl.json").write_text("{}")
    process.stop("not promising")
    assert not kept.exists()


def test_a_killed_fork_server_costs_its_trial_and_no_more(start: Start) -> None:
    with ForkServer(preload=()) as other:
        process = start(4, on=other, do="hang")
        while not isinstance(process.poll(), Epoch):
            pass
        os.kill(other.pid, signal.SIGKILL)
        outcome = outcome_of(process)
        assert outcome.status is Status.INTERRUPTED
        assert "code -9" in outcome.reason
        assert len(outcome.epochs) == 1
        assert gone(process.pid)
        with pytest.raises(DeviceError, match="has died"):
            start(5, on=other)


def test_imports_that_fail_are_told_to_whoever_needs_the_server(start: Start) -> None:
    with ForkServer(preload=("no_such_module_at_all",)) as broken:
        with pytest.raises(DeviceError, match="No module named 'no_such_module_at_all'"):
            broken.wait_ready()
        with pytest.raises(DeviceError):
            start(on=broken)


# ---- ancestors


def run_parent(code: str, tmp_path: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Runs a script that prints process ids, one a line and then "ready"; returns it and the ids."""
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(code))
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    pids = []
    for line in parent.stdout:
        if line.strip() == b"ready":
            return parent, pids
        pids.append(int(line))
    raise AssertionError("the script ended early")


PARENT = """
    import sys
    from autotune.memory.process import ProcessMeter
    from autotune.trial.ancestry import Ancestor
    from autotune.trial.fork_server import ForkServer
    from autotune.trial.process import TrialProcess
    from autotune.trial.request import Epoch, TrialRequest

    driver = Ancestor.of({driver})
    server = ForkServer(preload=(), driver=driver)
    request = TrialRequest(number=0, backbone_source="", prepared_dir="", output_dir=sys.argv[1], memory_cap=10**9,
                           settings={{"do": "hang"}}, driver=driver)
    process = TrialProcess(request, server, ProcessMeter(), target="tests.autotune.stub_trials:execute")
    while not isinstance(process.poll(), Epoch):
        pass
    print(server.pid, process.pid, "ready", sep="\\n", flush=True)
    while True:
        process.poll()
"""


def test_nothing_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent, pids = run_parent(PARENT.format(driver="None"), tmp_path)
    with parent:
        parent.kill()
    assert len(pids) == 2
    for pid in pids:
        assert gone(pid), psutil.Process(pid)


def test_nothing_outlives_a_driver_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as driver:
        parent, pids = run_parent(PARENT.format(driver=driver.pid), tmp_path)
        driver.kill()
        try:
            for pid in pids:
                assert gone(pid), psutil.Process(pid)
            assert parent.poll() is None  # it was not the parent that ended them
        finally:
            parent.kill()
            parent.communicate()


def test_a_fork_server_that_still_imports_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "slow_import.py").write_text("import time\ntime.sleep(60)\n")
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from autotune.trial.fork_server import ForkServer
        server = ForkServer(preload=("slow_import",))
        print(server.pid, "ready", sep="\\n", flush=True)
        import time
        time.sleep(60)
    """
    parent, (server_pid,) = run_parent(code, tmp_path)
    time.sleep(1.0)
    with parent:
        parent.kill()
    assert gone(server_pid)


def test_an_ancestor_is_known_by_more_than_its_id() -> None:
    me = Ancestor.of()
    assert me.runs_here()
    assert not Ancestor(pid=me.pid, started=me.started + 1.0, host=me.host).is_alive()
    assert not Ancestor(pid=me.pid, started=me.started, host="another machine").runs_here()
    with pytest.raises(ProcessLookupError):
        Ancestor.of(2**22 + 1)


def test_a_zombie_is_a_dead_ancestor() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        ancestor = Ancestor.of(child.pid)
        assert ancestor.is_alive()
        child.kill()
        assert gone(child.pid)
        assert not ancestor.is_alive()


# ---- what travels


def test_messages_and_requests_survive_json() -> None:
    report = EpochReport(epoch=1, train_loss=math.inf, metrics={"f1": 0.5}, seconds=1.5)
    figures = MemoryFigures(allocated=1, device=2, meter="nvml", reserved=3)
    outcome = Outcome(status=Status.DIVERGED, reason="loss is nan\n🙂", epochs=(report,), peak=figures)
    messages: list[Message] = [Unread("why"), Rehearsed(figures), Steps(1, 40, 125), Epoch(report), Finished(outcome)]
    assert [message_from_json(message_to_json(message)) for message in messages] == messages
    with pytest.raises(ValueError, match="Not a trial's message"):
        message_from_json('{"something": 1}')
    request = TrialRequest(
        number=3,
        backbone_source="é",
        prepared_dir="/data",
        output_dir="/out",
        memory_cap=10,
        method={"name": "sherl"},
        predicted=figures,
        driver=Ancestor.of(),
    )
    assert TrialRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


def test_nan_in_an_epoch_arrives(start: Start) -> None:
    (report,) = (event.report for event in start(epochs=1, loss="nan").events() if isinstance(event, Epoch))
    assert math.isnan(report.train_loss)


@pytest.mark.parametrize(
    ("held", "ran_out", "status"),
    [(95, False, Status.OUT_OF_MEMORY), (10, True, Status.OUT_OF_MEMORY), (10, False, Status.FAILED)],
)
def test_a_kill_from_outside_is_judged_by_what_the_system_did(
    tmp_path: Path, held: int, ran_out: bool, status: Status
) -> None:
    request = TrialRequest(number=9, backbone_source="", prepared_dir="", output_dir=str(tmp_path), memory_cap=100)
    peak = MemoryFigures(allocated=0, device=held, meter="process private bytes")
    verdict = death(request, -signal.SIGKILL, peak=peak, memory_ran_out=ran_out)
    assert verdict.status is status
    assert "Trial 9" in verdict.reason


# ---- cost


@pytest.mark.slow
def test_a_further_trial_costs_a_fraction_of_the_imports(start: Start) -> None:
    began = time.monotonic()
    with ForkServer() as full:
        full.wait_ready()
        imports = time.monotonic() - began
        assert psutil.Process(full.pid).num_threads() == 1  # a process with threads must not be forked
        seconds = []
        for number in range(4):
            began = time.monotonic()
            assert outcome_of(start(number, on=full)).status is Status.COMPLETE
            seconds.append(time.monotonic() - began)
        assert min(seconds) < imports / 4, (seconds, imports)
