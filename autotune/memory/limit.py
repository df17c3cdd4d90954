"""The first line of defence on a machine without a GPU: an allocation over the cap fails inside the process.

Polling cannot prevent an allocation. On Linux the kernel can: ``RLIMIT_DATA`` bounds a process's private writable
mappings, and what would go beyond fails at once, before a page of it exists. torch then raises its allocator's
RuntimeError, Python a MemoryError, and the trial ends with a status instead of with a full machine.

The limit counts what is mapped, the cap what is held. What is mapped but not held when the limit is set (untouched
stacks of threads, writable data of libraries) is added to the limit, so that the process may grow to the cap and no
further. It is set after imports and after torch's threads have started: a thread that cannot get its stack ends the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from autotune.errors import DeviceError
from autotune.memory.process import own_private_bytes
from autotune.units import format_bytes

# Texts of the RuntimeErrors with which torch (its allocators, the C++ library, oneDNN) says that memory is out.
_OUT_OF_MEMORY_TEXTS = (
    "defaultcpuallocator",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "std::bad_alloc",
    "failed to allocate",
    "unable to mmap",
    "dnnl_out_of_memory",
    # torch's CUDA allocator asks NVML who holds what before it says that memory is out, and NVML refuses (slices, Jetson)
    "nvml_success == r internal assert failed",
)


def limit_process(cap_bytes: int) -> int | None:
    """Bound this process's private bytes to the cap (see this module's first lines). Start torch's threads before.

    Returns the limit that was set in bytes of private writable mappings, or None where the system has no such limit
    (only Linux does): the guard is the first line then. The limit cannot be raised again in this process.

    Raises:
        DeviceError: the process is over the cap already.
    """
    if not sys.platform.startswith("linux"):
        return None
    import resource  # not on Windows

    held, mapped = own_private_bytes(), _mapped_bytes()
    if held >= cap_bytes:
        raise DeviceError(
            f"This process holds {format_bytes(held)} before its training, which is over the cap of "
            f"{format_bytes(cap_bytes)}. Give a cap above that."
        )
    limit = cap_bytes + max(0, mapped - held)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return limit


def _mapped_bytes() -> int:
    """Private writable mappings of this process, which is what the limit counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is out: Python's MemoryError, torch's OutOfMemoryError on a GPU, the
    RuntimeErrors of the CPU side, and of a GPU whose NVML does not say who holds its memory; also where such an error caused the one that is given."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, MemoryError) or type(current).__name__ == "OutOfMemoryError":
            return True
        if isinstance(current, (RuntimeError, OSError)):
            text = str(current).lower()
            if any(words in text for words in _OUT_OF_MEMORY_TEXTS):
                return True
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return False
