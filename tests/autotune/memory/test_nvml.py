"""The door to NVML: the real binding on a stand-in for the library, which behaves as drivers in the real world do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autotune.errors import DeviceError
from autotune.memory import device as device_module
from autotune.memory.device import available_device
from autotune.memory.nvml import Listed, NvmlDevice, driver_version
from tests.autotune.memory import stand_in
from tests.autotune.memory.children import ROOT
from tests.autotune.memory.stand_in import Gpu, StandIn

GB = 1_000_000_000
NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST, UNKNOWN = 4, 9, 15, 999


@pytest.fixture
def several(nvml: StandIn) -> StandIn:
    """Two GPUs and one that is cut into two slices."""
    nvml.gpus = [
        Gpu("GPU-aaaa-1", "First", mig_mode=0),
        Gpu("GPU-bbbb-2", "Second", total=8 * GB, used=2 * GB),
        Gpu("GPU-cccc-3", "Cut", total=80 * GB, mig_mode=1),
        Gpu("MIG-dddd-4", "Slice 1", total=10 * GB, used=0, parent="GPU-cccc-3"),
        Gpu("MIG-eeee-5", "Slice 2", total=20 * GB, used=0, parent="GPU-cccc-3"),
    ]
    nvml.write()
    return nvml


def test_memory_in_both_versions(nvml: StandIn) -> None:
    device = NvmlDevice.open(environment={})
    second = device.memory()
    assert (second.total_bytes, second.reserved_bytes, second.free_bytes) == (12 * GB, 300_000_000, 10_700_000_000)
    nvml.set(faults={"memory_v2": 25})  # the binding's structure is not the driver's
    first = device.memory()
    assert (first.total_bytes, first.reserved_bytes, first.free_bytes) == (12 * GB, 0, 10_700_000_000)
    assert driver_version() == "580.65.06"


def test_processes_are_listed_once_and_figures_that_cannot_be_true_are_none(nvml: StandIn) -> None:
    nvml.set(
        compute=[(1, 5 * GB), (2, None), (3, 0), (4, 2**62), (5, 1 * GB), (6, None)],
        graphics=[(5, 2 * GB), (6, 7), (7, 8)],
    )
    assert NvmlDevice.open(environment={}).processes() == [
        Listed(1, 5 * GB),
        Listed(2, None),
        Listed(3, None),
        Listed(4, None),
        Listed(5, 2 * GB),
        Listed(6, 7),
        Listed(7, 8),
    ]


@pytest.mark.parametrize("code", [3, NO_PERMISSION, 6], ids=["not supported", "no permission", "not found"])
def test_a_list_that_is_not_shown_is_none(nvml: StandIn, code: int) -> None:
    nvml.set(faults={"processes": code})
    assert NvmlDevice.open(environment={}).processes() is None


@pytest.mark.parametrize("code", [GPU_IS_LOST, UNKNOWN, 1])
def test_a_driver_that_vanishes_is_an_error(nvml: StandIn, code: int) -> None:
    device = NvmlDevice.open(environment={})
    device.processes()
    nvml.set(faults={"all": code})
    for ask in (device.processes, device.memory, device.name, device.uuid, driver_version):
        with pytest.raises(DeviceError, match="does not answer"):
            ask()


def test_a_gpu_that_falls_off_the_bus_is_an_error(nvml: StandIn) -> None:
    device = NvmlDevice.open(environment={})
    nvml.gpus = []
    nvml.write()
    with pytest.raises(DeviceError, match="GPU is lost"):
        device.memory()


@pytest.mark.parametrize(
    ("device", "visible", "name"),
    [
        (0, None, "First"),
        (1, None, "Second"),
        (0, "1,0", "Second"),
        (1, " 1 , 0 ", "First"),
        (0, "GPU-bbbb-2", "Second"),
        (0, "GPU-bbbb", "Second"),
        (0, "2", "Slice 1"),
        (0, "GPU-cccc-3", "Slice 1"),
        (0, "MIG-eeee-5", "Slice 2"),
        (0, "MIG-eeee", "Slice 2"),
        ("GPU-aaaa-1", "1", "First"),
    ],
)
def test_visible_devices_are_honoured(several: StandIn, device: int | str, visible: str | None, name: str) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    opened = NvmlDevice.open(device, environment=environment)
    assert opened.name() == name
    assert opened.uuid() == next(gpu.uuid for gpu in several.gpus if gpu.name == name)


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    ("device", "visible"), [(2, "0,1"), (0, ""), (1, "0,-1,1"), (7, None), (0, "GPU-dddd"), ("GPU-", None)]
)
def test_devices_that_are_not_there(device: int | str, visible: str | None) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    with pytest.raises(DeviceError, match="CUDA_VISIBLE_DEVICES"):
        NvmlDevice.open(device, environment=environment)


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["First", "Second", "Slice 1"]),
        ("1", ["Second"]),
        ("1,0", ["Second", "First"]),
        ("MIG-eeee-5", ["Slice 2"]),
    ],
)
def test_every_visible_gpu_in_torchs_order(visible: str | None, names: list[str]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert [device.name() for device in NvmlDevice.visible(environment=environment)] == names


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0,7", ["First"]),
        ("0,foo", ["First"]),
        ("0,,1", ["First"]),
        ("0,-1,1", ["First"]),
        ("0,\u00b9", ["First"]),  # a digit for str.isdigit, not for CUDA
        ("0,GPU-bbbb", ["First"]),  # indices or UUIDs
        ("GPU-aaaa,1", ["First"]),
        ("GPU-aaaa,GPU-none,GPU-bbbb", ["First"]),
        ("1gpu,00", ["Second", "First"]),
        ("GPU-bbbb-2,GPU-aaaa", ["Second", "First"]),
        (" 1 , 0", ["Second", "First"]),
    ],
)
def test_the_list_is_read_up_to_its_first_invalid_entry(visible: str, names: list[str]) -> None:
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    assert [device.name() for device in NvmlDevice.visible(environment=environment)] == names
    with pytest.raises(DeviceError, match=f"shows {len(names)}"):
        NvmlDevice.open(len(names), environment=environment)


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    "visible", ["0,0", "1,0,1", "GPU-aaaa,GPU-aaaa-1", "foo", "\u00b2", "-2", "7,0", ",0", "gpu-aaaa", "9" * 30]
)
def test_a_list_that_shows_nothing(visible: str) -> None:
    for ask in (NvmlDevice.open, NvmlDevice.visible):
        with pytest.raises(DeviceError, match="shows 0"):
            ask(environment={"CUDA_VISIBLE_DEVICES": visible})


def test_a_slice_has_its_own_memory_and_list(several: StandIn) -> None:
    several.gpus[3].compute = [(42, 3 * GB)]
    several.gpus[2].compute = [(43, 9 * GB)]
    several.write()
    device = NvmlDevice.open(environment={"CUDA_VISIBLE_DEVICES": "MIG-dddd-4"})
    assert device.memory().total_bytes == 10 * GB
    assert device.processes() == [Listed(42, 3 * GB)]


def test_a_gpu_to_be_cut_without_a_slice_cannot_be_used(several: StandIn) -> None:
    several.gpus = several.gpus[2:3]
    several.write()
    with pytest.raises(DeviceError, match="nvidia-smi mig -cgi"):
        NvmlDevice.open(environment={})


def test_a_missing_driver_and_a_missing_binding(nvml: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.set(faults={"init": DRIVER_NOT_LOADED})
    with pytest.raises(DeviceError, match="nvidia-smi"):
        NvmlDevice.open()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(DeviceError, match="pip install nvidia-ml-py"):
        NvmlDevice.open()


def test_an_old_driver_lacks_functions_that_the_binding_asks_for(nvml: StandIn, tmp_path: Path) -> None:
    """In a child, which finds the library as on a real machine: by its name."""
    nvml.set(compute=[(42, 3 * GB)])
    old = StandIn(nvml.file, stand_in.build(tmp_path / "old", old_driver=True), *nvml.gpus)
    code = "from autotune.memory.nvml import NvmlDevice; d = NvmlDevice.open(); print(d.processes(), d.memory())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=old.environment,
        timeout=60,
        check=False,
    )
    assert "Listed(pid=42, used_bytes=3000000000)" in done.stdout, done.stderr
    assert "total_bytes=12000000000, free_bytes=10700000000" in done.stdout


def test_gpus_are_described(several: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_torch_has_cuda", lambda: True)
    found = available_device({"CUDA_VISIBLE_DEVICES": "1"})
    assert (found.kind, found.name, found.total_bytes, found.meter) == ("cuda", "Second", 8 * GB, "nvml")
    both = available_device({"CUDA_VISIBLE_DEVICES": "0,1"})
    assert (both.name, both.count) == ("2 GPUs (First, Second)", 2)
    assert (both.total_bytes, both.free_bytes) == (8 * GB, 5_700_000_000), "a trial may be placed on the smaller one"
    assert both.limited_by == "the smallest of several GPUs"
    assert available_device({"CUDA_VISIBLE_DEVICES": ""}).kind == "cpu", "hidden on purpose"
    several.set(faults={"init": DRIVER_NOT_LOADED})
    monkeypatch.setattr(device_module, "_torch_sees_gpu", lambda: False)
    assert available_device({}).kind == "cpu", "a CUDA build on a machine without a GPU"
    monkeypatch.setattr(device_module, "_torch_sees_gpu", lambda: True)
    with pytest.raises(DeviceError, match="cannot be watched"):
        available_device({})
