"""A stand-in for the pynvml module: GPUs, processes and faults as a test sets them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML error {value}")
        self.value = value


@dataclass
class Gpu:
    uuid: str
    name: str | bytes = "Fake 4070"
    total: int = 12_000_000_000
    used: int = 1_000_000_000
    compute: list[tuple[int, int | None]] = field(default_factory=list)
    graphics: list[tuple[int, int | None]] = field(default_factory=list)


class FakeNvml:
    """What :mod:`autotune.memory.nvml` uses of pynvml."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_NOT_FOUND = 6
    NVML_ERROR_GPU_IS_LOST = 15
    nvmlMemory_v2 = 0x2000028

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = list(gpus)
        self.init_error: int | None = None
        self.lost = False
        self.lists_supported = True
        self.second_version = True

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise NVMLError(self.init_error)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        if not 0 <= index < len(self.gpus):
            raise NVMLError(2)
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Gpu:
        for gpu in self.gpus:
            if gpu.uuid == uuid:
                return gpu
        raise NVMLError(self.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: Gpu) -> str | bytes:
        self._alive()
        return gpu.name

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu, version: int | None = None) -> Any:
        self._alive()
        if version is None:
            return SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used)
        if not self.second_version:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        reserved = 300_000_000
        return SimpleNamespace(total=gpu.total, used=gpu.used, free=gpu.total - gpu.used - reserved, reserved=reserved)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[Any]:
        return self._listed(gpu.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: Gpu) -> list[Any]:
        return self._listed(gpu.graphics)

    def _listed(self, entries: list[tuple[int, int | None]]) -> list[Any]:
        self._alive()
        if not self.lists_supported:
            raise NVMLError(self.NVML_ERROR_NOT_SUPPORTED)
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in entries]

    def _alive(self) -> None:
        if self.lost:
            raise NVMLError(self.NVML_ERROR_GPU_IS_LOST)
