"""How a trial's process keeps its C heap, which decides how far its private bytes stand above its tensor bytes.

glibc raises, by itself, the size from which a block gets pages of its own, up to 32 MB. Freed activations then stay in
one heap as holes that later blocks do not fit: measured with MiniLM (``benchmarks/trial_memory.py``), a process stands 30 to
100 % of its tensor bytes above them. With that size fixed low every block of note is given back when it is freed: a
process stands less than 15 MB above them, and a step costs about a quarter more processor time, since its pages have to be
made anew. So there are two plans, and the fast one is taken wherever it fits the cap.
"""

from __future__ import annotations

import bisect
import ctypes
import sys
from pathlib import Path
from typing import Literal

import torch

HeapPlan = Literal["fast", "tight"]
HEAP_PLANS: tuple[HeapPlan, ...] = ("fast", "tight")  # in the order of their speed

# mallopt's names for them, from malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -3, -4, -8
_OWN_PAGES_FROM_BYTES = 256 * 1024


def configure_heap(plan: HeapPlan) -> bool:
    """Keep this process's heap by the plan; call it once, after the imports and before tensors are made.

    Both plans use one arena, since each arena keeps holes of its own. Returns whether the C library took it: False where it is not glibc, where
    the margin of the fast plan is the one to reckon with.

    Raises:
        ValueError: the plan is unknown.
    """
    if plan not in HEAP_PLANS:
        raise ValueError(f"Unknown heap plan {plan!r}; known are {', '.join(HEAP_PLANS)}.")
    mallopt = _mallopt()
    if mallopt is None:
        return False
    taken: bool = mallopt(_M_ARENA_MAX, 1) == 1
    if plan == "tight":
        settings = (
            (_M_MMAP_THRESHOLD, _OWN_PAGES_FROM_BYTES),
            (_M_TRIM_THRESHOLD, _OWN_PAGES_FROM_BYTES),
            (_M_TOP_PAD, 0),
            (_M_MMAP_MAX, 1 << 20),  # by default 65536 blocks; beyond that they would go into the heap again
        )
        for name, value in settings:
            taken = mallopt(name, value) == 1 and taken
    return taken


def _mallopt() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    return library.mallopt


def make_resident(*modules: torch.nn.Module) -> int:
    """Give weights that are mapped from a file memory of their own; returns the bytes that were copied.

    transformers maps a safetensors file: a frozen weight then sits in pages of the file, and only a trained one, once
    written, in the process's own. Copied at the start, weights weigh the same for every method, as on a GPU,
    and the private bytes are baseline + tensor bytes. Parameters stay the same objects, tied ones stay tied.
    """
    mapped = _file_mappings()
    copies: dict[int, torch.UntypedStorage] = {}
    copied = 0
    with torch.no_grad():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
                    continue
                storage = tensor.untyped_storage()
                if storage.nbytes() == 0 or not _inside(mapped, storage.data_ptr()):
                    continue
                key = storage._cdata
                if key not in copies:
                    copies[key] = storage.clone()  # type: ignore[no-untyped-call]  # torch has no types here
                    copied += storage.nbytes()
                own = torch.empty(0, dtype=tensor.dtype)
                own.set_(copies[key], tensor.storage_offset(), tensor.shape, tensor.stride())
                tensor.data = own
    return copied


def _file_mappings() -> list[tuple[int, int]] | None:
    """Address ranges that are mapped from files, sorted; None where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return None
    ranges = []
    for line in lines:
        addresses, _, _, _, inode = line.split(maxsplit=5)[:5]
        if inode != "0":
            start, end = addresses.split("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def _inside(ranges: list[tuple[int, int]] | None, address: int) -> bool:
    if ranges is None:
        return True  # not known: a copy too many does no harm
    index = bisect.bisect_right(ranges, (address, sys.maxsize)) - 1
    return index >= 0 and ranges[index][0] <= address < ranges[index][1]
