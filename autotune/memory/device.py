"""What this machine has to train on, and which meter reads it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil

from autotune.cgroup import group_memory
from autotune.errors import DeviceError
from autotune.memory import nvml
from autotune.memory.gpus import gpu_key


@dataclass(frozen=True, kw_only=True)
class DeviceInfo:
    """kind: what torch calls the device. total_bytes and free_bytes: of the device's memory; for a CPU the smaller of
    the machine's and the control group's; with several GPUs those of the one that has the least, since a trial may be
    placed on any. count: how many such devices. meter: the name in :data:`autotune.memory.meter.METERS` of what reads it.
    limited_by: "" or what makes the total smaller than the machine's own, in words. capability: of the GPU, (major,
    minor), the highest of several, where it is known; driver: its version, "" where that is not known. gpus: each kind
    of GPU by the name that NVML shows, while ``name`` is for people (``2 GPUs (NVIDIA A100)``)."""

    kind: Literal["cpu", "cuda"]
    name: str
    total_bytes: int
    free_bytes: int
    meter: str
    limited_by: str = ""
    count: int = 1
    capability: tuple[int, int] | None = None
    driver: str = ""
    gpus: tuple[str, ...] = ()

    @property
    def gpu_kind(self) -> str:
        """What a single one of its GPUs is called (:func:`autotune.memory.gpus.gpu_key`); of several kinds, all of them.
        "" for a CPU. What is learnt on one GPU holds for each of its kind, so it is kept under this."""
        return "+".join(sorted({gpu_key(name) for name in self.gpus}))


def available_device(environment: Mapping[str, str] = os.environ) -> DeviceInfo:
    """The GPUs that torch may use, else the CPU. Starts no CUDA context: a process forked later stays usable.

    Raises:
        DeviceError: torch is built for CUDA and a GPU is there, but NVML cannot be asked about it, so that no cap could be held.
    """
    if not _torch_has_cuda() or environment.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return cpu_device()
    try:
        return _gpu(environment)
    except DeviceError:
        if not _torch_sees_gpu():
            return cpu_device()
        raise


def _torch_has_cuda() -> bool:
    import torch  # heavy, and only this function needs it

    return torch.version.cuda is not None


def _torch_sees_gpu() -> bool:
    import torch  # see above

    return torch.cuda.is_available()


def _gpu(environment: Mapping[str, str]) -> DeviceInfo:
    gpus = []
    for device in nvml.NvmlDevice.visible(environment=environment):
        memory = device.memory()
        gpus.append(
            {
                "name": device.name(),
                "total_bytes": memory.total_bytes,
                "free_bytes": memory.free_bytes,
                "capability": device.capability(),
                "driver": device.driver(),
            }
        )
    return gpus_device(gpus)


def gpus_device(gpus: Sequence[Mapping[str, Any]]) -> DeviceInfo:
    """One or more GPUs (name, total_bytes, free_bytes; perhaps capability and driver) as what trials run on."""
    names = list(dict.fromkeys(str(gpu["name"]) for gpu in gpus))
    totals = [int(gpu["total_bytes"]) for gpu in gpus]
    return DeviceInfo(
        kind="cuda",
        name=", ".join(names) if len(gpus) == 1 else f"{len(gpus)} GPUs ({', '.join(names)})",
        total_bytes=min(totals),
        free_bytes=min(int(gpu["free_bytes"]) for gpu in gpus),
        meter="nvml",
        limited_by="the smallest of several GPUs" if min(totals) < max(totals) else "",
        count=len(gpus),
        capability=max((tuple(gpu["capability"]) for gpu in gpus if gpu.get("capability")), default=None),
        driver=str(gpus[0].get("driver", "")),
        gpus=tuple(names),
    )


def cpu_device() -> DeviceInfo:
    """This machine's memory as what trials run on, inside its control group."""
    machine = psutil.virtual_memory()
    group = group_memory(machine_bytes=machine.total)
    total = machine.total if group is None else group.limit_bytes
    free = machine.available if group is None else min(machine.available, group.free_bytes)
    return DeviceInfo(
        kind="cpu",
        name=_cpu_name(),
        total_bytes=int(total),
        free_bytes=int(free),
        meter="process",
        limited_by="" if group is None else "the control group's memory limit",
    )


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform's word for it has to do
    return platform.processor() or platform.machine() or "CPU"
