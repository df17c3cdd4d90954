"""Which source of truth the GPU's meter takes, and the guard with it: real processes, the real binding, a stand-in below."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autotune.errors import DeviceError
from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.guard import Guard
from autotune.memory.meter import METERS
from autotune.memory.nvml_meter import (
    SOURCE_ASSUMED,
    SOURCE_GROWTH,
    SOURCE_PROCESS,
    NvmlMeter,
    allocator_fraction,
)
from tests.autotune.memory.children import child, wait_until
from tests.autotune.memory.stand_in import Gpu, StandIn

GB = 1_000_000_000
PID = 4242
IDLES = "import time\nprint('ready', flush=True)\ntime.sleep(60)"


def proc_of(folder: Path, namespace: str, *pids: int) -> Path:
    """A /proc with these processes, in this process namespace."""
    (folder / "self" / "ns").mkdir(parents=True)
    (folder / "self" / "ns" / "pid").symlink_to(namespace)
    for pid in pids:
        (folder / str(pid)).mkdir()
    return folder


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The /proc of a machine outside of all containers."""
    return proc_of(tmp_path / "proc", "pid:[4026531836]")


def test_a_process_is_found_by_its_pid(nvml: StandIn, host: Path) -> None:
    nvml.set(compute=[(1, 5 * GB), (PID, 3 * GB)])
    meter = NvmlMeter(environment={}, proc=host)
    assert (meter.device_bytes(PID), meter.source) == (3 * GB, SOURCE_PROCESS)
    nvml.set(graphics=[(PID, 4 * GB)])
    assert meter.device_bytes(PID) == 4 * GB, "listed twice, the larger counts"


@pytest.mark.parametrize(
    "listed",
    [[], [(PID, None)], [(PID, 0)], [(PID, 2**62)], [(99, 3 * GB)]],
    ids=["not listed", "None (WSL)", "0 (container)", "nonsense", "host pid"],
)
def test_where_nothing_is_shown_the_trial_speaks(
    nvml: StandIn, host: Path, listed: list[tuple[int, int | None]]
) -> None:
    nvml.set(compute=listed)
    meter = NvmlMeter(environment={}, proc=host)
    assert meter.device_bytes(PID) is None, "nobody has said anything yet"
    meter.report(PID, 2 * GB)
    assert (meter.device_bytes(PID), meter.source) == (2 * GB + DEFAULT_CONTEXT_BYTES, SOURCE_ASSUMED)
    meter.report(PID, 2 * GB, 400_000_000, SOURCE_GROWTH)
    assert (meter.device_bytes(PID), meter.source) == (2_400_000_000, SOURCE_GROWTH)
    assert meter.device_bytes(PID + 1) is None, "what one process says is not another's"
    nvml.set(compute=[(PID, 3 * GB)])
    assert (meter.device_bytes(PID), meter.source) == (3 * GB, SOURCE_PROCESS)


def test_a_slice_without_process_lists(nvml: StandIn, host: Path) -> None:
    nvml.gpus.append(Gpu("MIG-cccc-3", "Slice", total=10 * GB, used=0, parent="GPU-aaaa-1"))
    nvml.set(faults={"processes": 3})
    meter = NvmlMeter("MIG-cccc-3", environment={}, proc=host)
    assert meter.device_bytes(PID) is None
    meter.report(PID, GB)
    assert meter.device_bytes(PID) == GB + DEFAULT_CONTEXT_BYTES


def test_host_pids_in_a_container_are_not_taken_for_its_own(nvml: StandIn, tmp_path: Path) -> None:
    nvml.set(compute=[(PID, 7 * GB), (918_273, GB)])  # the host's process PID is another one
    inside = NvmlMeter(environment={}, proc=proc_of(tmp_path / "inside", "pid:[4026532900]", PID))
    assert inside.device_bytes(PID) is None
    inside.report(PID, 2 * GB)
    assert (inside.device_bytes(PID), inside.source) == (2_600_000_000, SOURCE_ASSUMED)
    nvml.set(compute=[(PID, 7 * GB)])
    assert inside.device_bytes(PID) == 7 * GB, "a list of processes of this container only is its own"
    nvml.set(compute=[(PID, 7 * GB), (918_273, GB)])
    outside = NvmlMeter(environment={}, proc=proc_of(tmp_path / "outside", "pid:[4026531836]", PID))
    assert outside.device_bytes(PID) == 7 * GB, "there a process that is gone meanwhile says nothing of the numbering"


def test_an_entry_from_before_the_process_touched_the_gpu_is_anothers(nvml: StandIn, tmp_path: Path) -> None:
    nvml.set(compute=[(PID, 7 * GB)])  # only the host's process of that number
    meter = NvmlMeter(environment={}, proc=proc_of(tmp_path / "proc", "pid:[4026532900]", PID))
    meter.begin(PID)
    assert meter.device_bytes(PID) is None
    meter.report(PID, GB)
    assert meter.device_bytes(PID) == GB + DEFAULT_CONTEXT_BYTES


def test_a_missing_proc_speaks_against_no_list(nvml: StandIn, tmp_path: Path) -> None:
    nvml.set(compute=[(PID, GB), (7, GB)])
    assert NvmlMeter(environment={}, proc=tmp_path / "none").device_bytes(PID) == GB


def test_the_device_is_back_when_the_process_is_gone_from_it(nvml: StandIn, host: Path) -> None:
    nvml.set(used=2 * GB, compute=[(7, GB)])
    meter = NvmlMeter(environment={}, proc=host)
    assert meter.left_bytes(PID) == 0, "nothing has begun"
    meter.begin(PID)
    nvml.set(used=5 * GB, compute=[(7, GB), (PID, 3 * GB)])
    assert meter.left_bytes(PID) == 3 * GB
    nvml.set(compute=[(7, GB)])
    assert meter.left_bytes(PID) == 3 * GB, "no longer listed, not yet given back"
    assert meter.growth_bytes() == 3 * GB
    nvml.set(used=6 * GB, compute=[(7, 5 * GB)])
    assert meter.left_bytes(PID) == 0, "what another process is listed with is not counted against it"
    nvml.set(used=2 * GB + 30 * 2**20, compute=[(7, GB)])
    assert meter.left_bytes(PID) == 0, "drivers keep small things"


def test_the_guard_ends_what_nvml_shows_over_the_cap_and_nothing_else(nvml: StandIn) -> None:
    with child(IDLES) as trial, child(IDLES) as other:
        assert trial.stdout is not None
        trial.stdout.readline()
        nvml.set(compute=[(trial.pid, GB), (other.pid, 9 * GB)])
        with Guard(trial.pid, 2 * GB, NvmlMeter()) as guard:
            wait_until(lambda: guard.peak_bytes == GB)
            nvml.set(compute=[(trial.pid, 3 * GB), (other.pid, 9 * GB)])
            assert trial.wait(timeout=20) == -signal.SIGTERM
            wait_until(lambda: guard.breached)
        assert guard.peak_bytes == 3 * GB
        assert SOURCE_PROCESS in guard.reason
        assert other.poll() is None


def test_the_peak_keeps_the_source_that_it_came_from(nvml: StandIn) -> None:
    with child(IDLES) as trial:
        nvml.set(compute=[(trial.pid, 3 * GB)])
        meter = NvmlMeter()
        meter.report(trial.pid, GB)
        with Guard(trial.pid, 9 * GB, meter, 0.01) as guard:
            wait_until(lambda: guard.peak_bytes == 3 * GB)
            nvml.set(compute=[])
            wait_until(lambda: meter.source == SOURCE_ASSUMED)
        assert (guard.peak_bytes, guard.peak_source) == (3 * GB, SOURCE_PROCESS)


def test_a_tenant_during_the_watch_is_no_breach(nvml: StandIn) -> None:
    with child(IDLES) as trial:
        nvml.set(compute=[(trial.pid, GB)])
        with Guard(trial.pid, 2 * GB, NvmlMeter(), 0.01) as guard:
            wait_until(lambda: guard.peak_bytes == GB)
            nvml.set(used=11 * GB, compute=[(trial.pid, GB), (1, 10 * GB)])
            readings = guard.readings
            wait_until(lambda: guard.readings > readings + 10)
        assert trial.poll() is None
        assert not guard.breached


def test_a_driver_that_vanishes_during_the_watch_is_said(nvml: StandIn) -> None:
    with child(IDLES) as trial:
        nvml.set(compute=[(trial.pid, GB)])
        with Guard(trial.pid, 2 * GB, NvmlMeter(), 0.01, blind_after_s=0.3) as guard:
            wait_until(lambda: guard.peak_bytes == GB)
            nvml.set(faults={"all": 15})
            assert trial.wait(timeout=20) == -signal.SIGTERM
            wait_until(lambda: guard.blind)
        assert "GPU is lost" in guard.reason
        assert "could no longer be held" in guard.reason


def test_it_looks_twenty_times_a_second_also_when_the_driver_is_slow(nvml: StandIn) -> None:
    """A reading of 25 ms must not be added to the interval: 15 a second would be left of 25."""
    with child(IDLES) as trial:
        nvml.set(compute=[(trial.pid, GB)], delays={"processes": 12})  # asked twice in each reading
        with Guard(trial.pid, 2 * GB, NvmlMeter()) as guard:
            wait_until(lambda: guard.readings > 0)
            rates = []
            for _ in range(5):  # a busy machine may slow one stretch, never the reverse
                before, began = guard.readings, time.monotonic()
                wait_until(lambda: guard.readings >= before + 25)  # noqa: B023 - called in this round only
                rates.append(25 / (time.monotonic() - began))
            assert max(rates) >= 20


def test_a_driver_that_hangs_is_noticed(nvml: StandIn) -> None:
    with child(IDLES) as trial:
        nvml.set(compute=[(trial.pid, GB)])
        with Guard(trial.pid, 2 * GB, NvmlMeter(), 0.01) as guard:
            wait_until(lambda: guard.readings > 2)
            assert guard.silent_s < 1
            nvml.set(delays={"processes": 1500})
            wait_until(lambda: guard.silent_s > 1.0)
            nvml.set(delays={})
        assert guard.silent_s == 0.0


def test_meters_are_made_by_name(nvml: StandIn) -> None:
    assert METERS.get("nvml")().name == "nvml"
    nvml.set(faults={"init": 9})
    with pytest.raises(DeviceError, match="nvidia-smi"):
        METERS.get("nvml")()


def test_the_allocators_share() -> None:
    assert allocator_fraction(8 * GB, GB // 2, 12 * GB) == pytest.approx(7.5 / 12)
    assert allocator_fraction(20 * GB, GB, 12 * GB) == 1.0
    assert allocator_fraction(8 * GB, GB // 2, 12 * GB, page_bytes=GB // 4) == pytest.approx(7.25 / 12)
    with pytest.raises(DeviceError, match=r"a page of 20\.97 MB .* may go over"):
        allocator_fraction(GB // 2 + 1, GB // 2, 12 * GB, page_bytes=20 * 2**20)
    with pytest.raises(DeviceError, match="leaves nothing for tensors"):
        allocator_fraction(GB // 2, GB, 12 * GB)
    with pytest.raises(DeviceError, match="nvidia-smi"):
        allocator_fraction(GB, 0, 0)


@pytest.mark.gpu
def test_on_a_real_gpu_a_process_that_allocates_is_seen_and_given_back() -> None:
    """Only on a machine with a GPU: which source speaks there, and that the device comes back."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    code = (
        "import torch, time, sys\nsys.stdin.readline()\nx = torch.zeros(500_000_000 // 4, device='cuda')\n"
        "print(torch.cuda.memory_reserved(), flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        meter = NvmlMeter()
        meter.begin(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        reserved = int(process.stdout.readline())
        meter.report(process.pid, reserved)
        held = meter.device_bytes(process.pid)
        assert held is not None
        assert held > reserved
        process.kill()
        process.wait()
        wait_until(lambda: meter.left_bytes(process.pid) == 0)
