"""A GPU trial's confines from inside: a stand-in for torch.cuda, the real NVML binding on a stand-in for its library."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.nvml_meter import SOURCE_ASSUMED, SOURCE_GROWTH, SOURCE_PROCESS
from autotune.outcome import MemoryFigures, Status
from autotune.trial.confines import CudaConfines, OverCap
from autotune.trial.execution import _Trial
from autotune.trial.request import TrialRequest
from autotune.trial.verdict import ANOTHER_TENANT
from tests.autotune.memory.stand_in import Gpu, StandIn

GB = 10**9


class FakeCuda:
    """What the confines ask of ``torch.cuda``, with figures that a test sets; the stand-in for NVML follows them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nvml: StandIn) -> None:
        self.reserved, self.most_reserved, self.allocated = 0, 0, 0
        self.nvml = nvml
        self.tenant = 0
        self.fractions: list[float] = []
        fake: dict[str, Any] = {
            "set_device": lambda _: None,
            "get_device_properties": lambda _: type("Properties", (), {"total_memory": 80 * GB}),
            "reset_peak_memory_stats": lambda _: None,
            "synchronize": lambda _: None,
            "memory_reserved": lambda _: self.reserved,
            "max_memory_reserved": lambda _: self.most_reserved,
            "max_memory_allocated": lambda _: self.allocated,
            "mem_get_info": lambda _: (80 * GB - nvml.gpu.used, 80 * GB),
            "set_per_process_memory_fraction": lambda fraction, _: self.fractions.append(fraction),
        }
        for name, function in fake.items():
            monkeypatch.setattr(torch.cuda, name, function)

    def hold(self, reserved: int, outside: int, *, listed: bool = True) -> None:
        """The process holds this much of the device; NVML shows it by its pid, or only as the device's."""
        self.reserved = reserved
        self.most_reserved = max(self.most_reserved, reserved)
        shown: list[tuple[int, int | None]] = [(os.getpid(), reserved + outside)] if listed else []
        self.nvml.set(used=reserved + outside + self.tenant, compute=shown)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, nvml: StandIn) -> FakeCuda:
    nvml.gpus = [Gpu("GPU-aaaa-1", total=80 * GB, used=0, reserved=0)]
    nvml.write()
    return FakeCuda(monkeypatch, nvml)


def confined(cap: int) -> CudaConfines:
    return CudaConfines(request_for(cap))


def request_for(cap: int) -> TrialRequest:
    return TrialRequest(number=4, backbone_source="", prepared_dir="", output_dir="", memory_cap=cap, device="cuda")


def test_the_allocators_fraction_follows_what_is_measured_outside_it(cuda: FakeCuda) -> None:
    held = confined(8 * GB)
    assert cuda.fractions == [pytest.approx((8e9 - DEFAULT_CONTEXT_BYTES) / 80e9)]  # before the weights
    cuda.hold(2 * GB, 400_000_000)
    held.settle(None)  # type: ignore[arg-type]  # the model plays no part on a GPU
    assert cuda.fractions[-1] == pytest.approx((8e9 - 0.4e9) / 80e9)
    with held.measured(None):  # type: ignore[arg-type]  # the same
        cuda.allocated = 2_700_000_000
        cuda.hold(3 * GB, 700_000_000)  # kernels were loaded meanwhile
    held.check()
    assert cuda.fractions[-1] == pytest.approx((8e9 - 0.7e9) / 80e9)
    assert held.peak() == MemoryFigures(
        allocated=2_700_000_000, reserved=3 * GB, device=3_700_000_000, meter=SOURCE_PROCESS
    )


def test_segments_that_grow_are_left_a_page_to_go_over(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    held = confined(8 * GB)
    cuda.hold(2 * GB, 400_000_000)
    held.settle(None)  # type: ignore[arg-type]  # the model plays no part on a GPU
    assert cuda.fractions[-1] == pytest.approx((8e9 - 0.4e9 - 20 * 2**20) / 80e9)


def test_a_rehearsal_over_the_cap_of_a_gpu_is_refused(cuda: FakeCuda) -> None:
    held = confined(4 * GB)
    cuda.hold(3_900_000_000, 400_000_000)
    with pytest.raises(OverCap, match=r"Trial 4 does not fit: it held 4\.30 GB .* over the cap of 4\.00 GB"):
        held.check()


def test_a_gpu_that_hides_the_process_tells_the_context_by_its_growth(cuda: FakeCuda) -> None:
    held = confined(8 * GB)
    cuda.hold(GB, 450_000_000, listed=False)
    held.settle(None)  # type: ignore[arg-type]  # the model plays no part on a GPU
    assert cuda.fractions[-1] == pytest.approx((8e9 - 0.45e9) / 80e9)
    cuda.hold(GB, 500_000_000, listed=False)
    held.check()
    assert (held.peak().device, held.peak().meter) == (1_500_000_000, SOURCE_GROWTH)
    cuda.hold(GB, 300_000_000, listed=False)
    held.check()
    assert held.peak().device == 1_500_000_000, "others move too, so the growth only raises it"
    cuda.tenant = 30 * GB
    cuda.hold(GB, 500_000_000, listed=False)
    held.check()
    assert held.peak().device == 1_500_000_000, "a growth of 30 GB is no context"
    cuda.hold(GB, 400_000_000)
    held.check()
    assert (held.peak().device, held.peak().meter) == (1_400_000_000, SOURCE_PROCESS), "NVML's own figure comes first"


def test_a_gpu_that_tells_nothing_keeps_the_assumed_context(cuda: FakeCuda) -> None:
    held = confined(4 * GB)
    cuda.reserved = cuda.most_reserved = GB
    held.check()
    assert (held.peak().device, held.peak().meter) == (GB + DEFAULT_CONTEXT_BYTES, SOURCE_ASSUMED)


def test_a_cap_below_the_context_is_over_it(cuda: FakeCuda) -> None:
    with pytest.raises(OverCap, match="leaves nothing for tensors"):
        confined(10**8)


@pytest.mark.parametrize(("tenant", "refused"), [(10 * GB, True), (77_300_000_000, False)])
def test_what_refused_an_allocation_on_a_gpu(cuda: FakeCuda, tenant: int, refused: bool) -> None:
    held = confined(4 * GB)
    cuda.tenant = tenant
    cuda.hold(2 * GB, 600_000_000)
    assert held.refused_by_cap() is refused


def test_memory_that_a_tenant_took_is_said_to_be_the_tenants_doing(cuda: FakeCuda) -> None:
    trial = _Trial(request_for(8 * GB), lambda _: None)
    cuda.tenant = 5 * GB
    cuda.hold(0, 0)
    trial._confines = confined(8 * GB)
    cuda.tenant = 77 * GB
    cuda.hold(2 * GB, 600_000_000)
    trial._confines.check()
    outcome = trial.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert outcome.status is Status.OUT_OF_MEMORY
    assert outcome.details[ANOTHER_TENANT] is True
    assert "other processes hold 77.00 GB" in outcome.reason
    assert "5.00 GB" in outcome.reason
    assert "no breach of the trial's own cap" in outcome.reason


def test_over_the_cap_is_the_trials_own_doing(cuda: FakeCuda) -> None:
    trial = _Trial(request_for(4 * GB), lambda _: None)
    trial._confines = confined(4 * GB)
    cuda.hold(3 * GB, 600_000_000)
    outcome = trial.out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert outcome.status is Status.OVER_CAP
    assert ANOTHER_TENANT not in outcome.details


def test_a_driver_that_vanishes_after_the_start_does_not_fail_the_trial_from_inside(cuda: FakeCuda) -> None:
    held = confined(4 * GB)
    cuda.nvml.set(faults={"all": 15})
    cuda.most_reserved = GB
    held.check()
    assert held.peak().device == GB + DEFAULT_CONTEXT_BYTES
    assert held.others() == ""
