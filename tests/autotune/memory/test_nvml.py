"""The door to NVML, with a stand-in for the binding that behaves as drivers in the real world do."""

from __future__ import annotations

import sys

import pytest

from autotune.errors import DeviceError
from autotune.memory import device as device_module
from autotune.memory.device import available_device
from autotune.memory.meter import METERS
from autotune.memory.nvml import SOURCE_ALLOCATOR, SOURCE_PROCESS, NvmlDevice, NvmlMeter, allocator_fraction
from tests.autotune.memory.fake_nvml import FakeNvml, Gpu

GB = 1_000_000_000
PID = 4242


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(Gpu("GPU-aaaa-1", "First"), Gpu("GPU-bbbb-2", b"Second"), Gpu("MIG-cccc-3", "Slice", total=10 * GB))
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]  # it stands in for a module
    return fake


def test_a_process_is_found_by_its_pid(nvml: FakeNvml) -> None:
    nvml.gpus[0].compute = [(1, 5 * GB), (PID, 3 * GB)]
    meter = NvmlMeter(environment={})
    assert meter.device_bytes(PID) == 3 * GB
    assert meter.source == SOURCE_PROCESS
    nvml.gpus[0].graphics = [(PID, 4 * GB)]
    assert meter.device_bytes(PID) == 4 * GB, "listed twice, the larger counts"


@pytest.mark.parametrize(
    "listed", [[], [(PID, None)], [(PID, 0)], [(99, 3 * GB)]], ids=["not listed", "None", "0", "host pid"]
)
def test_where_nothing_is_shown_the_allocator_speaks(nvml: FakeNvml, listed: list[tuple[int, int | None]]) -> None:
    nvml.gpus[0].compute = listed
    meter = NvmlMeter(environment={}, context_bytes=400_000_000)
    assert meter.device_bytes(PID) is None, "nobody has said anything yet"
    meter.report_reserved(PID, 2 * GB)
    assert meter.device_bytes(PID) == 2_400_000_000
    assert meter.source == SOURCE_ALLOCATOR
    assert meter.device_bytes(PID + 1) is None, "what one process says is not another's"
    nvml.gpus[0].compute = [(PID, 3 * GB)]
    assert (meter.device_bytes(PID), meter.source) == (3 * GB, SOURCE_PROCESS)


def test_a_slice_without_process_lists(nvml: FakeNvml) -> None:
    nvml.lists_supported = False
    meter = NvmlMeter("MIG-cccc-3", environment={})
    assert meter.device_bytes(PID) is None
    meter.report_reserved(PID, GB)
    assert meter.device_bytes(PID) is not None


def test_a_driver_that_vanishes_is_an_error(nvml: FakeNvml) -> None:
    meter = NvmlMeter(environment={})
    nvml.lost = True
    for ask in (lambda: meter.device_bytes(PID), meter.device.memory, meter.device.name):
        with pytest.raises(DeviceError, match="does not answer"):
            ask()


def test_memory_in_both_versions(nvml: FakeNvml) -> None:
    device = NvmlDevice.open(environment={})
    second = device.memory()
    assert (second.total_bytes, second.reserved_bytes, second.free_bytes) == (12 * GB, 300_000_000, 10_700_000_000)
    nvml.second_version = False
    first = device.memory()
    assert (first.total_bytes, first.reserved_bytes, first.free_bytes) == (12 * GB, 0, 11 * GB)


@pytest.mark.parametrize(
    ("device", "visible", "name"),
    [
        (0, None, "First"),
        (1, None, "Second"),
        (0, "1,0", "Second"),
        (1, " 1 , 0 ", "First"),
        (0, "GPU-bbbb-2", "Second"),
        (0, "GPU-bbbb", "Second"),
        (0, "MIG-cccc-3", "Slice"),
        ("GPU-aaaa-1", "1", "First"),
    ],
)
def test_visible_devices_are_honoured(nvml: FakeNvml, device: int | str, visible: str | None, name: str) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert NvmlDevice.open(device, environment=environment).name() == name
    assert NvmlDevice.open(device, environment=environment).uuid() in {gpu.uuid for gpu in nvml.gpus}


@pytest.mark.usefixtures("nvml")
@pytest.mark.parametrize(
    ("device", "visible"), [(2, "0,1"), (0, ""), (1, "0,-1,1"), (7, None), (0, "GPU-dddd"), ("GPU-", None)]
)
def test_devices_that_are_not_there(device: int | str, visible: str | None) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES"):
        NvmlDevice.open(device, environment=environment)


def test_a_missing_driver_and_a_missing_binding(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.init_error = 9
    with pytest.raises(DeviceError, match="nvidia-smi"):
        METERS.get("nvml")()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(DeviceError, match="pip install nvidia-ml-py"):
        NvmlMeter()


def test_the_allocators_share() -> None:
    assert allocator_fraction(8 * GB, GB // 2, 12 * GB) == pytest.approx(7.5 / 12)
    assert allocator_fraction(20 * GB, GB, 12 * GB) == 1.0
    with pytest.raises(DeviceError, match="leaves nothing for tensors"):
        allocator_fraction(GB // 2, GB, 12 * GB)
    with pytest.raises(DeviceError, match="nvidia-smi"):
        allocator_fraction(GB, 0, 0)


def test_a_gpu_is_described(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_torch_has_cuda", lambda: True)
    found = available_device({"CUDA_VISIBLE_DEVICES": "1"})
    assert (found.kind, found.name, found.total_bytes, found.meter) == ("cuda", "Second", 12 * GB, "nvml")
    assert available_device({"CUDA_VISIBLE_DEVICES": ""}).kind == "cpu", "hidden on purpose"
    nvml.init_error = 9
    monkeypatch.setattr(device_module, "_torch_sees_gpu", lambda: False)
    assert available_device({}).kind == "cpu", "a CUDA build on a machine without a GPU"
    monkeypatch.setattr(device_module, "_torch_sees_gpu", lambda: True)
    with pytest.raises(DeviceError, match="cannot be watched"):
        available_device({})
