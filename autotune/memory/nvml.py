"""The one door to NVML (the library behind nvidia-smi): what a process holds of a GPU, and how much the GPU has.

NVML in the real world: a process may be listed with no figure (Windows, WSL) or with 0 (containers with some drivers),
or under the host's pid. Only a match above 0 is believed. Otherwise the trial's own allocator figure, which it reports,
plus its context's bytes takes its place, and ``source`` says so in every report.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.errors import DeviceError
from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.units import format_bytes

SOURCE_PROCESS = "nvml, this process"
SOURCE_ALLOCATOR = "the allocator's reserved bytes plus the context's (NVML shows nothing for the process)"


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a GPU or of a MIG slice, in bytes. reserved_bytes: kept by the driver, in no process's hands."""

    total_bytes: int
    free_bytes: int
    used_bytes: int
    reserved_bytes: int = 0


def allocator_fraction(cap_bytes: int, outside_bytes: int, total_bytes: int) -> float:
    """What to give ``torch.cuda.set_per_process_memory_fraction``, so that allocator and all else stay under the cap.

    outside_bytes: what the process holds of the device outside torch's allocator (context, libraries' workspaces).

    Raises:
        DeviceError: nothing of the cap is left for the allocator, or the device has no memory.
    """
    if total_bytes <= 0:
        raise DeviceError(
            f"The device's memory was read as {total_bytes} bytes; `nvidia-smi` shows whether it is usable."
        )
    left = cap_bytes - outside_bytes
    if left <= 0:
        raise DeviceError(
            f"A cap of {format_bytes(cap_bytes)} leaves nothing for tensors: {format_bytes(outside_bytes)} are held outside "
            "the allocator (CUDA context, libraries). Give a cap well above that."
        )
    return min(1.0, left / total_bytes)


class NvmlDevice:
    """One GPU or MIG slice."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def open(cls, device: int | str = 0, *, environment: Mapping[str, str] = os.environ) -> NvmlDevice:
        """The GPU that torch calls ``cuda:<device>``, or the one of a UUID (``GPU-...``, ``MIG-...``).

        ``CUDA_VISIBLE_DEVICES`` is honoured, by index and by UUID. NVML counts GPUs by PCI bus; with other than
        ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` and several unlike GPUs, give UUIDs.

        Raises:
            DeviceError: NVML or the driver is missing, or there is no such GPU.
        """
        library = _load()
        name = device if isinstance(device, str) else _visible(device, environment)
        try:
            if isinstance(name, str):
                return cls(library, _handle_by_uuid(library, name))
            return cls(library, library.nvmlDeviceGetHandleByIndex(name))
        except library.NVMLError as error:
            raise DeviceError(
                f"NVML knows no GPU {name!r} ({error}). `nvidia-smi -L` lists GPUs and UUIDs; CUDA_VISIBLE_DEVICES is "
                f"{environment.get('CUDA_VISIBLE_DEVICES')!r}."
            ) from error

    def name(self) -> str:
        """The GPU's name, as nvidia-smi shows it."""
        return _text(self._ask("nvmlDeviceGetName"))

    def uuid(self) -> str:
        """The GPU's or slice's UUID."""
        return _text(self._ask("nvmlDeviceGetUUID"))

    def capability(self) -> tuple[int, int] | None:
        """The compute capability, (major, minor); None where the driver or the binding does not say."""
        library = self._library
        ask = getattr(library, "nvmlDeviceGetCudaComputeCapability", None)
        if ask is None:
            return None
        try:
            major, minor = ask(self._handle)
        except library.NVMLError:
            return None
        return int(major), int(minor)

    def driver(self) -> str:
        """The driver's version; "" where it does not say."""
        ask = getattr(self._library, "nvmlSystemGetDriverVersion", None)
        if ask is None:
            return ""
        try:
            return _text(ask())
        except self._library.NVMLError:
            return ""

    def memory(self) -> DeviceMemory:
        """Memory now. What the driver keeps for itself is told apart where the driver can.

        Raises:
            DeviceError: the driver does not answer.
        """
        library = self._library
        version = getattr(library, "nvmlMemory_v2", None)
        if version is not None:
            try:
                two = library.nvmlDeviceGetMemoryInfo(self._handle, version=version)
            except (library.NVMLError, TypeError):
                pass  # a driver or a binding from before version 2
            else:
                return DeviceMemory(int(two.total), int(two.free), int(two.used), int(two.reserved))
        one = self._ask("nvmlDeviceGetMemoryInfo")
        return DeviceMemory(int(one.total), int(one.free), int(one.used))

    def process_bytes(self, pid: int) -> int | None:
        """What NVML shows for the process: None where it is not listed, or listed with no figure or with 0.

        Raises:
            DeviceError: the driver does not answer.
        """
        found = [
            int(entry.usedGpuMemory)
            for kind in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
            for entry in self._processes(kind)
            if entry.pid == pid and entry.usedGpuMemory
        ]
        return max(found, default=None)

    def _processes(self, function: str) -> list[Any]:
        library = self._library
        try:
            return list(getattr(library, function)(self._handle))
        except library.NVMLError as error:
            if getattr(error, "value", None) == getattr(library, "NVML_ERROR_NOT_SUPPORTED", 3):
                return []  # MIG slices and some boards keep no such list
            raise _gone(error) from error

    def _ask(self, function: str) -> Any:
        try:
            return getattr(self._library, function)(self._handle)
        except self._library.NVMLError as error:
            raise _gone(error) from error


class NvmlMeter:
    """What a process holds of a GPU. A trial's allocator figure, told by :meth:`report_reserved`, serves where NVML
    shows nothing for the process.

    Raises:
        DeviceError: NVML or the driver is missing, or there is no such GPU.
    """

    name = "nvml"

    def __init__(
        self,
        device: int | str = 0,
        *,
        context_bytes: int = DEFAULT_CONTEXT_BYTES,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.device = NvmlDevice.open(device, environment=environment)
        self.context_bytes = context_bytes
        self.source = SOURCE_PROCESS
        self._reserved: dict[int, int] = {}

    def report_reserved(self, pid: int, reserved_bytes: int) -> None:
        """What a trial says that its allocator holds (``torch.cuda.memory_reserved``, at its highest)."""
        self._reserved[pid] = reserved_bytes

    def device_bytes(self, pid: int) -> int | None:
        """Bytes that the process holds of the GPU; None where neither NVML nor the process has said anything.

        Raises:
            DeviceError: the driver does not answer.
        """
        listed = self.device.process_bytes(pid)
        if listed is not None:
            self.source = SOURCE_PROCESS
            return listed
        if pid in self._reserved:
            self.source = SOURCE_ALLOCATOR
            return self._reserved[pid] + self.context_bytes
        return None


def _load() -> Any:
    """The binding, with NVML started (starting it again costs nothing)."""
    try:
        import pynvml  # lazily: this module is read on machines that have neither GPU nor binding
    except ImportError as error:
        raise DeviceError(
            "NVML's Python binding is missing, so GPU memory cannot be watched: pip install nvidia-ml-py."
        ) from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise DeviceError(
            f"NVML does not start ({error}), so GPU memory cannot be watched. `nvidia-smi` must work here: install the NVIDIA "
            "driver, give the container its GPUs, or hide them with CUDA_VISIBLE_DEVICES='' to train on the CPU."
        ) from error
    return pynvml


def _visible(index: int, environment: Mapping[str, str]) -> int | str:
    """NVML's name (index or UUID) of torch's GPU ``index``."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return index
    entries = [entry.strip() for entry in visible.split(",") if entry.strip()]
    # CUDA reads the list up to its first invalid entry
    valid = next((entries[:place] for place, entry in enumerate(entries) if entry == "-1"), entries)
    if index >= len(valid):
        raise DeviceError(f"There is no GPU {index}: CUDA_VISIBLE_DEVICES is {visible!r}, which shows {len(valid)}.")
    entry = valid[index]
    return int(entry) if entry.isdigit() else entry


def _handle_by_uuid(library: Any, uuid: str) -> Any:
    """The handle of a UUID, or of the only UUID that begins so: CUDA allows a short form."""
    try:
        return library.nvmlDeviceGetHandleByUUID(uuid)
    except library.NVMLError:
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        near = [handle for handle in handles if _text(library.nvmlDeviceGetUUID(handle)).startswith(uuid)]
        if len(near) != 1:
            raise
        return near[0]


def _gone(error: Exception) -> DeviceError:
    return DeviceError(f"The NVIDIA driver does not answer ({error}). `nvidia-smi` shows whether it is alive.")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
