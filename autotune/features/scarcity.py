"""What is done where memory is out: said apart from other errors, and given back before it is tried with less."""

from __future__ import annotations

import torch

_TEXTS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "nvml_success == r internal assert failed",
)
"""How torch's CPU side says it, and its CUDA side where NVML does not say who holds a GPU's memory."""


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is out, a GPU's or the CPU's."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or any(text in str(error).lower() for text in _TEXTS)


def release(device: torch.device) -> None:
    """Give a GPU back what torch keeps of it unused."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
