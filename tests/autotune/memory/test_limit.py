"""Allocations over the cap fail inside the process, with errors that are told from others."""

from __future__ import annotations

import sys

import pytest
import torch

from autotune.memory.limit import is_out_of_memory
from tests.autotune.memory.children import run

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has this limit")

PREAMBLE = """
import sys, torch
from autotune.errors import DeviceError
from autotune.memory.limit import limit_process, is_out_of_memory
from autotune.memory.process import own_private_bytes
torch.set_num_threads(2)
torch.zeros(2**18).add_(1.0)
cap = own_private_bytes() + 120_000_000
"""


def test_texts_of_torch_are_known() -> None:
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**60, dtype=torch.int8)
    assert is_out_of_memory(failure.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: ..."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1407, please report a bug to PyTorch.'
        ),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_out_of_memory_in_many_words(error: BaseException) -> None:
    assert is_out_of_memory(error)
    outer = ValueError("while training")
    outer.__cause__ = error
    assert is_out_of_memory(outer), "also as the cause of another"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        ValueError("out of memory"),  # somebody's message about memory is no failed allocation
        KeyError("memory"),
        FileNotFoundError(2, "No such file or directory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_other_errors(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@linux
@pytest.mark.parametrize(
    "allocate",
    [
        "torch.ones(1_000_000)",
        "bytearray(1_000_000)",
        "torch.nn.functional.linear(torch.ones(512, 512), torch.ones(512, 512))",
        "torch.ones(512, 512, requires_grad=True).exp()",
    ],
)
def test_growth_fails_at_the_cap(allocate: str) -> None:
    finished = run(
        PREAMBLE
        + f"""
limit_process(cap)
held = []
try:
    while True:
        held.append({allocate})
except BaseException as error:
    at_failure = own_private_bytes()
    held.clear()
    print(is_out_of_memory(error), at_failure <= cap + 2_000_000, at_failure > cap - 40_000_000, cap, at_failure)
torch.ones(1_000_000).sum()   # the process lives on, and may allocate again
"""
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split()[:3] == ["True", "True", "True"], finished.stdout


@linux
def test_one_large_allocation_never_comes_to_life() -> None:
    """Gigabytes between two readings of a guard: polling would see them too late."""
    finished = run(
        PREAMBLE
        + """
limit_process(cap)
try:
    torch.ones(2**30)
except RuntimeError as error:
    print(is_out_of_memory(error), own_private_bytes() < cap)
"""
    )
    assert finished.stdout.split() == ["True", "True"], finished.stderr


@linux
def test_training_works_under_the_limit() -> None:
    finished = run(
        PREAMBLE
        + """
limit_process(cap)
model = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 2))
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
for _ in range(5):
    model(torch.randn(512, 256)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
print("trained", own_private_bytes() < cap)
"""
    )
    assert finished.stdout.split() == ["trained", "True"], finished.stderr


@linux
def test_a_process_over_its_cap_already_is_told_so() -> None:
    finished = run(
        PREAMBLE
        + """
try:
    limit_process(1_000_000)
except DeviceError as error:
    print(error)
"""
    )
    assert "over the cap of 1.00 MB" in finished.stdout, finished.stderr
