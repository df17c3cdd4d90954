"""The one door to NVML, the library behind nvidia-smi: which GPUs there are, what they have, who holds what of them.

NVML in the real world: a process may be listed with no figure (Windows, WSL), with 0 (containers with some drivers),
with a nonsense figure (drivers that do not agree with the binding), or under the host's pid; a slice of a GPU (MIG) has
a handle of its own, and a driver may be older than the binding, or vanish. What is made of it is told here and in
:mod:`autotune.memory.nvml_meter`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.errors import DeviceError, NoAnswerError
from autotune.memory.visible import visible_names

_INVALID_ARGUMENT, _NOT_SUPPORTED, _NO_PERMISSION, _NOT_FOUND, _FUNCTION_NOT_FOUND, _GPU_NOT_FOUND = 2, 3, 4, 6, 13, 28
# Answers that mean "this is not told here" and not "the driver is gone": slices, boards and users without such a list.
_UNTOLD = (_NOT_SUPPORTED, _NO_PERMISSION, _NOT_FOUND, _FUNCTION_NOT_FOUND)
_NO_SUCH_GPU = (_INVALID_ARGUMENT, _NO_PERMISSION, _NOT_FOUND, _GPU_NOT_FOUND)


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a GPU or of a MIG slice, in bytes. reserved_bytes: kept by the driver, in no process's hands."""

    total_bytes: int
    free_bytes: int
    used_bytes: int
    reserved_bytes: int = 0


@dataclass(frozen=True)
class Listed:
    """A process as NVML lists it. used_bytes: None where there is no figure, or none that can be true."""

    pid: int
    used_bytes: int | None


class NvmlDevice:
    """One GPU or MIG slice."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle
        self._total: int | None = None

    @classmethod
    def open(cls, device: int | str = 0, *, environment: Mapping[str, str] = os.environ) -> NvmlDevice:
        """The GPU that torch calls ``cuda:<device>``, or the one of a UUID (``GPU-...``, ``MIG-...``).

        ``CUDA_VISIBLE_DEVICES`` is read as CUDA reads it (:mod:`autotune.memory.visible`). NVML counts GPUs by PCI bus; trials are told to
        count so too, unless CUDA_DEVICE_ORDER says otherwise. A GPU that is cut into slices stands for its first
        slice, which is the one that CUDA takes.

        Raises:
            DeviceError: NVML's binding is missing, there is no such GPU, or it is to be cut and has no slice.
            NoAnswerError: the driver is missing or does not answer.
        """
        library = _load()
        listed = environment.get("CUDA_VISIBLE_DEVICES")
        name: int | str = device
        try:
            if isinstance(device, int) and listed is not None:
                visible = _visible(library, listed)
                if device >= len(visible):
                    raise DeviceError(
                        f"There is no GPU {device}: CUDA_VISIBLE_DEVICES is {listed!r}, which shows {len(visible)}. It is read up to "
                        "its first entry that names no GPU here, and one named twice hides all; `nvidia-smi -L` lists them."
                    )
                name = visible[device]
            handle = (
                _handle_by_uuid(library, name) if isinstance(name, str) else library.nvmlDeviceGetHandleByIndex(name)
            )
            return cls(library, _whole_or_slice(library, handle))
        except library.NVMLError as error:
            if error.value not in _NO_SUCH_GPU:
                raise _gone(error) from error
            raise DeviceError(
                f"NVML knows no GPU {name!r} ({error}). `nvidia-smi -L` lists GPUs and UUIDs; CUDA_VISIBLE_DEVICES is "
                f"{listed!r}."
            ) from error

    @classmethod
    def visible(cls, *, environment: Mapping[str, str] = os.environ) -> list[NvmlDevice]:
        """Every GPU that torch may use, in torch's order.

        Raises:
            DeviceError: NVML or the driver is missing, or CUDA_VISIBLE_DEVICES names none that is there.
        """
        library = _load()
        try:
            listed = environment.get("CUDA_VISIBLE_DEVICES")
            count = int(library.nvmlDeviceGetCount()) if listed is None else len(_visible(library, listed))
        except library.NVMLError as error:
            raise _gone(error) from error
        return [cls.open(index, environment=environment) for index in range(max(1, count))]

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
            except library.NVMLError:
                pass  # a driver from before version 2; one that is gone says so below
            else:
                return DeviceMemory(int(two.total), int(two.free), int(two.used), int(two.reserved))
        one = self._ask("nvmlDeviceGetMemoryInfo")
        return DeviceMemory(int(one.total), int(one.free), int(one.used))

    def processes(self) -> list[Listed] | None:
        """Who holds memory of the GPU, each process once; None where the driver keeps no such list or does not show it.

        Raises:
            DeviceError: the driver does not answer.
        """
        if self._total is None:
            self._total = self.memory().total_bytes
        found: dict[int, int | None] = {}
        told = False
        for kind in ("Compute", "Graphics"):
            entries = self._entries(f"nvmlDeviceGet{kind}RunningProcesses")
            told = told or entries is not None
            for entry in entries or ():
                used = entry.usedGpuMemory
                true = int(used) if used and int(used) <= self._total else None
                # listed in both lists, the larger figure counts
                found[entry.pid] = max((b for b in (true, found.get(entry.pid)) if b is not None), default=None)
        return [Listed(pid, used) for pid, used in found.items()] if told else None

    def _entries(self, function: str) -> list[Any] | None:
        library = self._library
        for version in ("_v3", "_v2"):  # drivers before 510 know the second only, and the binding asks for the third
            try:
                return list(getattr(library, function + version)(self._handle))
            except library.NVMLError as error:
                if error.value == _FUNCTION_NOT_FOUND:
                    continue
                if error.value in _UNTOLD:
                    return None
                raise _gone(error) from error
        return None

    def _ask(self, function: str) -> Any:
        try:
            return getattr(self._library, function)(self._handle)
        except self._library.NVMLError as error:
            raise _gone(error) from error


def driver_version() -> str:
    """The NVIDIA driver's version.

    Raises:
        DeviceError: NVML or the driver is missing or does not answer.
    """
    library = _load()
    try:
        return _text(library.nvmlSystemGetDriverVersion())
    except library.NVMLError as error:
        raise _gone(error) from error


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
        raise NoAnswerError(
            f"NVML does not start ({error}), so GPU memory cannot be watched. `nvidia-smi` must work here: install the NVIDIA "
            "driver, give the container its GPUs, or hide them with CUDA_VISIBLE_DEVICES='' to train on the CPU."
        ) from error
    return pynvml


def _visible(library: Any, listed: str) -> list[int | str]:
    """NVML's names of the GPUs that this CUDA_VISIBLE_DEVICES shows, in torch's order."""

    def uuid_of(short: str) -> str | None:
        try:
            return _text(library.nvmlDeviceGetUUID(_handle_by_uuid(library, short)))
        except library.NVMLError as error:
            if error.value not in _NO_SUCH_GPU:
                raise
            return None

    return visible_names(listed, int(library.nvmlDeviceGetCount()), uuid_of)


def _handle_by_uuid(library: Any, uuid: str) -> Any:
    """The handle of a UUID, or of the only UUID that begins so: CUDA allows a short form."""
    try:
        return library.nvmlDeviceGetHandleByUUID(uuid)
    except library.NVMLError:
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        handles += [handle for whole in handles for handle in _slices(library, whole)]
        near = [handle for handle in handles if _text(library.nvmlDeviceGetUUID(handle)).startswith(uuid)]
        if len(near) != 1:
            raise
        return near[0]


def _whole_or_slice(library: Any, handle: Any) -> Any:
    """The GPU itself, or the first of its slices where it is cut: the whole has memory that no process can use then."""
    try:
        cut = library.nvmlDeviceGetMigMode(handle)[0] == 1
    except library.NVMLError as error:
        if error.value in _UNTOLD:
            return handle  # a board that cannot be cut, or a slice
        raise
    if not cut:
        return handle
    slices = _slices(library, handle)
    if not slices:
        raise DeviceError(
            f"The GPU {_text(library.nvmlDeviceGetName(handle))} is to be cut into slices (MIG is on) and has none, so "
            "nothing can run on it. Make one with `nvidia-smi mig -cgi ... -C`, or turn MIG off: `nvidia-smi -mig 0`."
        )
    return slices[0]


def _slices(library: Any, handle: Any) -> list[Any]:
    """The handles of a GPU's slices; none where it is not cut."""
    found = []
    try:
        for index in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
            try:
                found.append(library.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
            except library.NVMLError as error:
                if error.value != _NOT_FOUND:
                    raise
    except library.NVMLError as error:
        if error.value not in _UNTOLD:
            raise
    return found


def _gone(error: Exception) -> NoAnswerError:
    return NoAnswerError(f"The NVIDIA driver does not answer ({error}). `nvidia-smi` shows whether it is alive.")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
