"""A GPU trial from outside: real processes and the real binding; what NVML says is a file that the test writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import DeviceError, NoAnswerError
from autotune.memory import guard as guard_module
from autotune.memory.nvml_meter import SOURCE_GROWTH, SOURCE_PROCESS, NvmlMeter
from autotune.outcome import Outcome, Status
from autotune.runner import desk
from autotune.trial import fork_server, tenancy
from autotune.trial.fork_server import ForkServer
from autotune.trial.process import TrialProcess
from autotune.trial.request import Epoch, Finished, TrialRequest
from autotune.trial.verdict import ANOTHER_TENANT
from tests.autotune.memory.stand_in import StandIn

from .stub_trials import STUB

GB = 10**9


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(preload=()) as running:
        yield running


def begin(server: ForkServer, tmp_path: Path, cap: int = 4 * GB, **settings: Any) -> TrialProcess:
    request = TrialRequest(
        number=3,
        backbone_source="",
        prepared_dir="",
        output_dir=str(tmp_path),
        memory_cap=cap,
        device="cuda",
        metric="accuracy",
        settings=settings,
    )
    return TrialProcess(request, server, NvmlMeter(), target=STUB)


def end_of(process: TrialProcess) -> Outcome:
    last = [*process.events()][-1]
    assert isinstance(last, Finished)
    return last.outcome


def until_epoch(process: TrialProcess) -> None:
    while not isinstance(process.poll(), Epoch):
        pass


def test_a_breach_that_nvml_shows_ends_the_trial_and_waits_for_the_device(
    server: ForkServer, nvml: StandIn, tmp_path: Path
) -> None:
    nvml.set(used=2 * GB)
    process = begin(server, tmp_path, do="hang", epochs=1)
    until_epoch(process)
    nvml.set(used=7 * GB, compute=[(process.pid, 5 * GB)])
    given_back = threading.Timer(1.5, lambda: nvml.set(used=2 * GB, compute=[]))
    began = time.monotonic()
    given_back.start()
    outcome = end_of(process)
    assert time.monotonic() - began > 1.0, "the next trial would find the device full"
    given_back.join()
    assert outcome.status is Status.OVER_CAP
    assert outcome.peak is not None
    assert (outcome.peak.device, outcome.peak.meter) == (5 * GB, SOURCE_PROCESS)
    assert "still held" not in outcome.reason


def test_a_device_that_does_not_come_back_is_said_in_time(
    server: ForkServer, nvml: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenancy, "BASELINE_SECONDS", 0.5)
    nvml.set(used=2 * GB)
    process = begin(server, tmp_path, epochs=1, epoch_seconds=0.5)
    nvml.set(used=5 * GB)
    outcome = end_of(process)
    assert outcome.status is Status.COMPLETE
    assert "the GPU still held 3.00 GB (2.79 GiB) more than before it" in outcome.reason
    assert "nvidia-smi" in outcome.reason


def test_a_trial_that_was_asked_to_end_waits_less(
    server: ForkServer, nvml: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenancy, "BASELINE_SECONDS", 300.0)
    nvml.set(used=2 * GB)
    process = begin(server, tmp_path, do="hang", epochs=1)
    until_epoch(process)
    nvml.set(used=5 * GB)
    began = time.monotonic()
    outcome = process.stop("enough")
    assert time.monotonic() - began < 60.0
    assert tenancy.BASELINE_SECONDS_ENDING < desk.END_SECONDS, "the runner cuts off what takes longer"
    assert outcome.status is Status.STOPPED
    assert "still held" in outcome.reason


def test_a_tenant_before_the_trial_lowers_its_cap_aloud(server: ForkServer, nvml: StandIn, tmp_path: Path) -> None:
    nvml.set(used=9 * GB)  # of 12, and 0.3 are the driver's
    process = begin(server, tmp_path, cap=4 * GB)
    assert process.request.memory_cap == 2_700_000_000
    outcome = end_of(process)
    assert outcome.status is Status.COMPLETE
    assert outcome.details["lowered_cap"] == 2_700_000_000
    assert "lowered from 4.00 GB (3.73 GiB) to the 2.70 GB (2.51 GiB)" in outcome.reason
    assert "others held 9.00 GB" in outcome.reason


def test_over_a_lowered_cap_but_not_its_own_is_the_tenants_doing(
    server: ForkServer, nvml: StandIn, tmp_path: Path
) -> None:
    nvml.set(used=9 * GB)
    process = begin(server, tmp_path, cap=4 * GB, do="hang", epochs=1)
    until_epoch(process)
    nvml.set(compute=[(process.pid, 3 * GB)])
    threading.Timer(1.0, lambda: nvml.set(compute=[])).start()
    outcome = end_of(process)
    assert outcome.status is Status.OUT_OF_MEMORY
    assert outcome.details[ANOTHER_TENANT] is True
    assert "no breach of the trial's own cap" in outcome.reason


def test_over_its_own_cap_stays_over_it_also_when_that_was_lowered(
    server: ForkServer, nvml: StandIn, tmp_path: Path
) -> None:
    nvml.set(used=9 * GB)
    process = begin(server, tmp_path, cap=4 * GB, do="hang", epochs=1)
    until_epoch(process)
    nvml.set(compute=[(process.pid, 5 * GB)])
    threading.Timer(1.0, lambda: nvml.set(compute=[])).start()
    outcome = end_of(process)
    assert outcome.status is Status.OVER_CAP
    assert ANOTHER_TENANT not in outcome.details


def test_what_the_trial_says_serves_where_nvml_hides_it(server: ForkServer, nvml: StandIn, tmp_path: Path) -> None:
    """The rehearsal tells reserved and device; the guard takes it from there, and the report says whose word it is."""
    outcome = end_of(begin(server, tmp_path, cap=4 * GB, reserved=2 * GB, device=2_500_000_000, meter=SOURCE_GROWTH))
    assert outcome.peak is not None
    assert (outcome.peak.device, outcome.peak.meter) == (2_500_000_000, SOURCE_GROWTH)
    over = begin(server, tmp_path, cap=2 * GB, reserved=2 * GB, device=2_500_000_000, meter=SOURCE_GROWTH, do="hang")
    assert end_of(over).status is Status.OVER_CAP


def test_a_driver_that_vanishes_interrupts_the_trial_so_that_it_is_drawn_again(
    server: ForkServer, nvml: StandIn, tmp_path: Path
) -> None:
    process = begin(server, tmp_path, do="hang", epochs=1)
    until_epoch(process)
    nvml.set(faults={"all": 15})
    outcome = end_of(process)
    assert outcome.status is Status.INTERRUPTED
    assert "GPU is lost" in outcome.reason
    with pytest.raises(NoAnswerError, match="GPU is lost"):
        begin(server, tmp_path)


@pytest.mark.parametrize(
    ("error", "status"),
    [(NoAnswerError("no driver"), Status.INTERRUPTED), (DeviceError("no imports"), Status.FAILED)],
)
def test_a_trial_that_a_missing_driver_keeps_from_starting_is_drawn_again(
    error: DeviceError, status: Status, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.runner.place import Errand, Place, read_report  # imports Ray

    def fail(place: Place) -> None:
        raise error

    monkeypatch.setattr(Place, "_step", fail)
    place = Place.__new__(Place)  # without Ray's own set-up
    place._process = place._server = None
    request = TrialRequest(number=3, backbone_source="", prepared_dir="", output_dir=str(tmp_path), memory_cap=GB)
    place._errand = Errand(request, {}, STUB, (), ())
    (message,), _ = read_report(place.step())
    assert isinstance(message, Finished)
    assert message.outcome.status is status
    assert str(error) in message.outcome.reason


def test_trials_count_gpus_as_nvml_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert fork_server._environment([])["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    assert fork_server._environment([])["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST", "a person's own word stands"


def test_a_driver_that_hangs_interrupts_the_trial(
    server: ForkServer, nvml: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "HANGING_SECONDS", 0.5)
    process = begin(server, tmp_path, do="hang", epochs=1)
    until_epoch(process)
    nvml.set(delays={"processes": 2000})
    threading.Timer(3.0, lambda: nvml.set(delays={})).start()
    outcome = end_of(process)
    assert outcome.status is Status.INTERRUPTED
    assert "has not answered" in outcome.reason


def test_a_trial_that_the_driver_does_not_let_begin_leaves_no_process(
    server: ForkServer, nvml: StandIn, tmp_path: Path
) -> None:
    nvml.set(faults={"processes": 15})
    with pytest.raises(DeviceError, match="GPU is lost"):
        begin(server, tmp_path)
    nvml.set(faults={})
    assert end_of(begin(server, tmp_path)).status is Status.COMPLETE
