"""What there is of GPUs, asked in a process of its own: ``autotune.probing.ask("autotune.memory.gpu_probe", ...)``."""

from __future__ import annotations

import os

from autotune.errors import DeviceError
from autotune.memory.nvml import NvmlDevice, driver_version
from autotune.memory.nvml_meter import NvmlMeter
from autotune.probing import Facts, answer


def nvml_facts() -> Facts:
    """driver; gpus: name, uuid, total and free bytes, how many processes are listed (None: no list) and how many of
    them with a figure. Or error."""
    try:
        gpus = []
        for device in NvmlDevice.visible():
            memory, listed = device.memory(), device.processes()
            gpus.append(
                {
                    "name": device.name(),
                    "uuid": device.uuid(),
                    "total_bytes": memory.total_bytes,
                    "free_bytes": memory.free_bytes,
                    "listed": None if listed is None else len(listed),
                    "with_figure": sum(entry.used_bytes is not None for entry in listed or ()),
                }
            )
        return {"driver": driver_version(), "gpus": gpus}
    except DeviceError as error:
        return {"error": str(error)}


def torch_facts() -> Facts:
    """version; cuda: what torch is built for, None for none; sees_gpu."""
    import torch  # heavy

    return {"version": torch.__version__, "cuda": torch.version.cuda, "sees_gpu": torch.cuda.is_available()}


def context_facts() -> Facts:
    """listed_bytes: what NVML shows for a process that has just used the first GPU, None for nothing; growth_bytes: by
    how much the device grew meanwhile; reserved_bytes: its allocator's. Or error."""
    import torch  # heavy

    try:
        meter = NvmlMeter()
        meter.begin(os.getpid())
        block = torch.ones(1024, 1024, device="cuda")
        (block @ block).sum().item()
        return {
            "listed_bytes": meter.device_bytes(os.getpid()),
            "growth_bytes": meter.growth_bytes(),
            "reserved_bytes": int(torch.cuda.memory_reserved()),
        }
    except (DeviceError, RuntimeError, AssertionError) as error:  # what torch raises where CUDA does not start
        return {"error": str(error).splitlines()[0]}


if __name__ == "__main__":
    answer({"nvml": nvml_facts, "torch": torch_facts, "context": context_facts})
