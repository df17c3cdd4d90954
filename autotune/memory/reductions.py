"""What a sum over a dimension takes of a GPU beside its result: torch cuts long ones into pieces for many blocks of threads.

From torch's header ``ATen/native/cuda/Reduce.cuh`` (2.11 to 2.13): where each thread would go through 256 values or more, and
there are too few results to occupy the device, several blocks work on each result. They leave partial results in a
buffer, and count in another who is the last. How many depends on the device's processors and their threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from autotune.memory.gpu import GpuKind

WARP = 32
MAX_THREADS = 512
FEW_VALUES, MANY_VALUES = 16, 256  # of a thread
VECTOR = 4  # values that a thread reads at once, at most
VECTORIZED_FROM = 128


@dataclass(frozen=True)
class _Dimension:
    """size, and strides of the result (0 where it is reduced) and of the input, in elements."""

    size: int
    result: int
    input: int


def buffers(tensor: Tensor, dims: Sequence[int], gpu: GpuKind, *, accumulated_bytes: int = 4) -> tuple[int, ...]:
    """Bytes of what a reduction of a tensor over these dimensions ([]: all) takes for the moment; () where it needs nothing.

    accumulated_bytes: of one partial result.
    """
    if tensor.numel() == 0:
        return ()
    reduced = {dim % tensor.dim() for dim in dims} if dims and tensor.dim() else set(range(tensor.dim()))
    found = _coalesced(_ordered(tensor, reduced))
    num_reduced = sum(one.result == 0 for one in found)
    inputs = math.prod(one.size for one in found[:num_reduced])
    outputs = math.prod(one.size for one in found[num_reduced:])
    along = num_reduced == len(found) or found[0].input < found[num_reduced].input  # the fastest dimension is reduced
    wide, high = (inputs, outputs) if along else (outputs, inputs)
    vector = 1
    if along and found and found[0].input == 1 and wide >= VECTORIZED_FROM and num_reduced == 1:
        wide //= VECTOR
    elif not along and found[num_reduced].input == 1:
        vector = _vector(found, num_reduced)
        wide //= vector
    most = MAX_THREADS // vector
    wide_most, high_most = (min(_power_below(size), most) for size in (wide, high))
    height = min(high_most, most // min(wide_most, WARP))
    width = min(wide_most, most // height)
    split = width if along else 1  # how many threads go through one result's values
    step_output = 1 if along else width
    values = -(-inputs // split)
    if values < min(height * FEW_VALUES, MANY_VALUES):
        return ()  # the rows of a block work on results of their own
    split *= height
    values = -(-inputs // split)
    grid = -(-(outputs // vector) // step_output)
    target = gpu.processors * (gpu.threads_per_processor // (width * height))
    if values < MANY_VALUES or grid > target:
        return ()
    blocks = max(min(-(-target // grid), -(-values // FEW_VALUES)), -(-values // MANY_VALUES))
    if blocks <= 1:
        return ()
    staged = accumulated_bytes * outputs * blocks * (1 if along else width * vector)
    return staged, 4 * grid


def _ordered(tensor: Tensor, reduced: set[int]) -> list[_Dimension]:
    """Reduced dimensions first, the fastest first."""
    result = 1
    kept: list[_Dimension] = []
    gone: list[_Dimension] = []
    for dim in reversed(range(tensor.dim())):
        size, stride = tensor.shape[dim], tensor.stride(dim)
        if dim in reduced:
            gone.append(_Dimension(size, 0, stride))
        else:
            kept.append(_Dimension(size, result, stride))
            result *= size
    return [*sorted(gone, key=lambda one: one.input), *kept]


def _coalesced(dimensions: list[_Dimension]) -> list[_Dimension]:
    """Neighbours that one stride serves count as one."""
    joined: list[_Dimension] = []
    for one in dimensions:
        last = joined[-1] if joined else None
        if last is not None and (
            one.size == 1
            or last.size == 1
            or (last.size * last.input == one.input and last.size * last.result == one.result)
        ):
            source = one if last.size == 1 else last
            joined[-1] = _Dimension(last.size * one.size, source.result, source.input)
        else:
            joined.append(one)
    return joined


def _vector(dimensions: list[_Dimension], output: int) -> int:
    vector = VECTOR
    sizes = [dimensions[output].size, *(one.input for place, one in enumerate(dimensions) if place != output)]
    for size in sizes:
        while size % vector:
            vector //= 2
    return vector


def _power_below(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)
