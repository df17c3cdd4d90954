"""Runs of stub trials through a real Ray: every trial gets its outcome, whatever dies."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest

from autotune.errors import DeviceError
from autotune.outcome import EpochReport, MemoryFigures, Outcome, Status
from autotune.runner import DONE, Ended, Listener, Machine, run_trials
from autotune.runner.source import Done
from autotune.trial.ancestry import Ancestor
from autotune.trial.request import TrialRequest

from .stub_trials import STUB

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BUDGET = 800 * 10**6
MACHINE = Machine(device="cpu", threads=1, budget=BUDGET, max_concurrent=2)
ALONE = Machine(device="cpu", threads=1, budget=BUDGET, max_concurrent=1)


class Source:
    """Stub trials from a list of settings; remembers what it is told, and when."""

    def __init__(self, folder: Path, settings: list[dict[str, Any]]) -> None:
        self._folder = folder
        self._todo = list(enumerate(settings))
        self.outcomes: dict[int, Outcome] = {}
        self.heard: list[tuple[str, int, float]] = []
        self.stop_at: dict[int, int] = {}
        self.on_epoch: Callable[[int, int], None] = lambda *_: None

    def next(self) -> TrialRequest | Literal[Done.DONE] | None:
        if not self._todo:
            return DONE
        number, settings = self._todo.pop(0)
        self.heard.append(("next", number, time.monotonic()))
        predicted = settings.pop("predicted", BUDGET // 2)
        return TrialRequest(
            number=number,
            backbone_source="",
            prepared_dir="",
            output_dir=str(self._folder / str(number)),
            memory_cap=BUDGET,
            metric="accuracy",
            predicted=MemoryFigures(allocated=1, device=predicted, meter="prediction"),
            driver=Ancestor.of(),
            settings=settings,
        )

    def epoch(self, number: int, report: EpochReport) -> bool:
        self.on_epoch(number, report.epoch)
        return report.epoch >= self.stop_at.get(number, 10**6)

    def finished(self, number: int, outcome: Outcome) -> None:
        assert number not in self.outcomes, "told twice"
        self.heard.append(("finished", number, time.monotonic()))
        self.outcomes[number] = outcome

    def statuses(self) -> list[Status]:
        return [self.outcomes[number].status for number in sorted(self.outcomes)]


def go(source: Source, machine: Machine = MACHINE, **settings: Any) -> Ended:
    return run_trials(source, machine, target=STUB, preload=(), **settings)


def signal_soon(seconds: float, number: signal.Signals) -> None:
    threading.Timer(seconds, lambda: os.kill(os.getpid(), number)).start()


def test_a_trial_has_the_drivers_allocator_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what its memory was predicted with."""
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    source = Source(tmp_path, [{"tells": ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"]}])
    assert go(source) is Ended.DONE
    told = source.outcomes[0].details["environment"]
    assert told == {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "PYTORCH_CUDA_ALLOC_CONF": None}


def test_twelve_trials_of_all_sorts_all_get_their_outcome(tmp_path: Path) -> None:
    # Over its half of the budget, but not over the whole: it is started again alone.
    unforeseen = {"do": "allocate", "blocks": 100, "block_bytes": 5 * 10**6, "hold_seconds": 0.0}
    greedy = {"do": "allocate", "blocks": 2000, "block_bytes": 5 * 10**6}
    slow = {"epochs": 3, "epoch_seconds": 0.2}
    meets = {"meets": str(tmp_path / "meeting")}  # two that end well only if they run at the same time
    source = Source(
        tmp_path,
        [
            slow | meets,
            {"do": "segfault"},
            meets,
            {"do": "raise"},
            unforeseen,
            greedy,
            slow,
            {"do": "exit"},
            {},
            slow,
            {},
            {},
        ],
    )
    source.stop_at = {9: 2}
    assert go(source) is Ended.DONE
    complete, failed = Status.COMPLETE, Status.FAILED
    assert source.statuses() == [
        *(complete, failed, complete, failed, complete, Status.OVER_CAP),
        *(complete, failed, complete, Status.STOPPED, complete, complete),
    ]
    assert len(source.outcomes[9].epochs) == 2
    assert source.outcomes[4].peak is not None
    assert source.outcomes[4].peak.device > BUDGET // 2
    # Two at a time, and never more than the budget: trials that took all of it had no company.
    spans = {
        number: (outcome.details["began"], outcome.details["ended"])
        for number, outcome in source.outcomes.items()
        if outcome.details
    }
    for began, _ in spans.values():
        assert sum(start <= began < end for start, end in spans.values()) <= 2
    alone = spans.pop(4)
    assert not any(start < alone[1] and alone[0] < end for start, end in spans.values())


def test_a_further_trial_costs_little(tmp_path: Path) -> None:
    source = Source(tmp_path, [{} for _ in range(8)])
    began = time.monotonic()
    go(source, ALONE)
    ends = [when for what, _, when in source.heard if what == "finished"]
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(ends))
    assert gaps[len(gaps) // 2] < (ends[0] - began) / 5, "against Ray's start and the imports of the first"


def test_at_the_deadline_the_running_trial_is_interrupted(tmp_path: Path) -> None:
    for budget in (20.0, 60.0, 180.0):  # where the machine is slow, the first ends before the second trial has begun
        source = Source(tmp_path, [{}, {"epochs": 10_000, "epoch_seconds": 0.1}, {}])
        began = time.monotonic()
        assert go(source, ALONE, deadline=began + budget) is Ended.DEADLINE
        assert time.monotonic() - began < budget + 30.0
        if len(source.outcomes) > 1 and len(source.outcomes[1].epochs) > 1:
            break
    assert source.statuses() == [Status.COMPLETE, Status.INTERRUPTED]
    assert "the time budget is used up" in source.outcomes[1].reason
    assert len(source.outcomes[1].epochs) > 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_in_order_and_soon(tmp_path: Path, number: signal.Signals) -> None:
    source = Source(tmp_path, [{"epochs": 1000, "epoch_seconds": 0.1} for _ in range(4)])
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    interrupted: list[float] = []

    def at_third(trial: int, epoch: int) -> None:
        if trial == 0 and epoch == 3 and not interrupted:
            interrupted.append(time.monotonic())
            signal_soon(0.0, number)

    source.on_epoch = at_third
    assert go(source) is Ended.INTERRUPTED
    assert time.monotonic() - interrupted[0] < 30.0
    assert set(source.statuses()) == {Status.INTERRUPTED}
    assert len(source.outcomes[0].epochs) >= 3
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_an_interrupt_does_not_wait_for_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imports_slowly.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    fired: list[float] = []

    class Impatient(Listener):
        def on_started(self, number: int) -> None:
            del number
            fired.append(time.monotonic() + 1.0)
            signal_soon(1.0, signal.SIGINT)

    source = Source(tmp_path, [{}])
    assert run_trials(source, MACHINE, target=STUB, preload=("imports_slowly",), listener=Impatient()) is (
        Ended.INTERRUPTED
    )
    assert time.monotonic() - fired[0] < 30.0
    assert source.statuses() == [Status.INTERRUPTED]


def test_imports_that_fail_are_each_trials_outcome(tmp_path: Path) -> None:
    source = Source(tmp_path, [{}, {}])
    assert run_trials(source, MACHINE, target=STUB, preload=("no_such_module_at_all",)) is Ended.DONE
    assert source.statuses() == [Status.FAILED, Status.FAILED]
    assert "No module named 'no_such_module_at_all'" in source.outcomes[0].reason


def test_a_second_interrupt_cuts_everything_off(tmp_path: Path) -> None:
    source = Source(tmp_path, [{"epochs": 1000, "epoch_seconds": 0.1, "stubborn": True}])
    fired: list[float] = []

    def at_first(trial: int, epoch: int) -> None:
        del trial, epoch
        if not fired:
            fired.append(time.monotonic())
            signal_soon(0.0, signal.SIGINT)
            signal_soon(0.4, signal.SIGINT)

    source.on_epoch = at_first
    assert go(source) is Ended.INTERRUPTED
    assert source.statuses() == [Status.INTERRUPTED]


def test_a_killed_worker_costs_one_trial(tmp_path: Path) -> None:
    source = Source(tmp_path, [{"epochs": 1000, "epoch_seconds": 0.1}, {}, {}])
    killed: list[int] = []

    def at_third(trial: int, epoch: int) -> None:
        if trial == 0 and epoch == 3 and not killed:
            (worker,) = [each for each in psutil.Process().children(recursive=True) if "ray::Place" in each.name()]
            killed.append(worker.pid)
            worker.kill()

    source.on_epoch = at_third
    assert go(source, ALONE) is Ended.DONE
    assert source.statuses() == [Status.INTERRUPTED, Status.COMPLETE, Status.COMPLETE]
    assert "worker that ran it died" in source.outcomes[0].reason


def test_a_dead_ray_is_started_again(tmp_path: Path) -> None:
    source = Source(tmp_path, [{"epochs": 1000, "epoch_seconds": 0.1}, {}])
    killed: list[int] = []

    def at_third(trial: int, epoch: int) -> None:
        if trial == 0 and epoch == 3 and not killed:
            (raylet,) = [each for each in psutil.Process().children(recursive=True) if each.name() == "raylet"]
            killed.append(raylet.pid)
            raylet.kill()

    source.on_epoch = at_third
    assert go(source, ALONE) is Ended.DONE
    assert source.statuses() == [Status.INTERRUPTED, Status.COMPLETE]


def test_an_error_of_the_source_reaches_the_caller_after_all_trials_ended(tmp_path: Path) -> None:
    source = Source(tmp_path, [{"epochs": 1000, "epoch_seconds": 0.1}])

    def fail(trial: int, epoch: int) -> None:
        raise RuntimeError(f"the record is gone at epoch {epoch} of {trial}")

    source.on_epoch = fail
    with pytest.raises(RuntimeError, match="the record is gone at epoch 1 of 0"):
        go(source)
    assert source.statuses() == [Status.INTERRUPTED]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001", "nonsense", "no-such-host.invalid:6379"])
def test_a_cluster_that_is_not_there_is_said_clearly(tmp_path: Path, address: str) -> None:
    source = Source(tmp_path, [{}])
    with pytest.raises(DeviceError, match=f"No Ray cluster answers at '{address}'.*host:port"):
        go(source, ray_address=address)
    assert source.outcomes == {}


def test_ray_needs_no_home_and_leaves_the_environment_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "home"
    locked.write_text("no folder, so that even root cannot write in it")
    monkeypatch.setenv("HOME", str(locked))
    before = dict(os.environ)
    for _ in range(2):
        source = Source(tmp_path, [{}])
        assert go(source) is Ended.DONE
        assert source.statuses() == [Status.COMPLETE]
        assert dict(os.environ) == before, "a command that starts from here finds what it would have found"


def test_more_threads_than_cores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="10000 CPU"):
        go(Source(tmp_path, [{}]), Machine(device="cpu", threads=10_000, budget=BUDGET))


DRIVER = """
import sys, time
from pathlib import Path
from autotune.runner import Listener, Machine, run_trials
from tests.autotune.test_runner import MACHINE, STUB, Source

source = Source(Path(sys.argv[1]), [{"epochs": 1000, "epoch_seconds": 0.1} for _ in range(4)])
source.on_epoch = lambda trial, epoch: print("epoch", trial, epoch, flush=True)
run_trials(source, MACHINE, target=STUB, preload=())
"""


def test_soon_after_the_driver_was_killed_nothing_is_left(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert driver.stdout is not None
    said, busy = [], set[int]()
    for line in driver.stdout:
        said.append(line.decode())
        busy |= {int(line.split()[1])} if line.startswith(b"epoch") else set()
        if len(busy) == 2:
            break
    left = psutil.Process(driver.pid).children(recursive=True)
    names = " ".join(" ".join(process.cmdline()) for process in left)
    assert "raylet" in names, said
    assert names.count("autotune.trial.server") == 4  # two fork servers, two trials
    folder = next(part for part in names.split() if "/atune-" in part)
    root = Path(folder[folder.index("/") :])
    root = next(parent for parent in [root, *root.parents] if parent.name.startswith("atune-"))
    assert root.is_dir()
    driver.kill()
    driver.communicate()
    deadline = time.monotonic() + 15.0  # five where nothing else runs
    while left and time.monotonic() < deadline:
        left = [each for each in left if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
        time.sleep(0.05)
    assert left == []
    assert not root.exists()
    assert all(line.startswith("epoch") for line in said), said  # Ray says nothing of its own


GARBAGE = """
import gc, threading, time
from autotune.runner import Machine
from autotune.runner.session import ray_session

class Knot:
    pass

def tie():
    while refs:
        knot = Knot()
        knot.itself, knot.ref = knot, refs.pop()
        del knot
        time.sleep(0.0002)

with ray_session(Machine(device="cpu", threads=1, budget=10**9), None):
    import ray

    refs = [ray.put(1) for _ in range(8000)]
    gc.set_threshold(1, 1, 1)
    threading.Thread(target=tie, daemon=True).start()
assert gc.isenabled()
assert len(refs) < 8000
print("went on")
"""


def test_garbage_of_rays_in_another_thread_does_not_end_the_process() -> None:
    """A thread whose every step is a collection, of what refers to Ray's objects, while Ray shuts down."""
    done = subprocess.run([sys.executable, "-c", GARBAGE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "went on"), done.stderr
