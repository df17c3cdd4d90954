"""What sums take of a GPU for the moment, against what torch's CUDA build (2.13.0) asked its allocator for."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from autotune.memory.cuda_ops import CudaPricing
from autotune.memory.gpu import GpuKind
from autotune.memory.reductions import buffers

RTX_4070 = GpuKind.of((8, 9), {}, name="NVIDIA GeForce RTX 4070")
H200 = GpuKind.of((9, 0), {}, name="NVIDIA H200")

# shape, dimensions, dtype, and bytes as recorded on 46 processors of 1536 threads and on 132 of 2048
RECORDED = [
    ((1024, 768), (0,), torch.float32, (6291456, 24), (6291456, 24)),
    ((1024, 3072), (0,), torch.bfloat16, (25165824, 96), (25165824, 96)),
    ((4096, 768), (0,), torch.float16, (25165824, 24), (25165824, 24)),
    ((12, 1024, 96), (1,), torch.bfloat16, (9437184, 36), (9437184, 36)),
    ((32, 12, 128, 128), (0,), torch.float32, (), ()),
    ((8, 197, 384), (0, 1), torch.float32, (4915200, 12), (4915200, 12)),
    ((64, 8), (0,), torch.float32, (), ()),
    ((100000,), (), torch.float32, (), ()),
    ((5000000,), (0,), torch.float32, (552, 4), (2112, 4)),
    ((16, 50257), (1,), torch.float32, (), ()),
    ((3, 1000, 5), (1,), torch.float32, (), ()),
    ((2, 77, 3, 4096), (0, 1, 3), torch.bfloat16, (552, 12), (924, 12)),
    ((20000, 3), (0,), torch.float32, (), ()),
    ((8, 56, 56, 256), (0, 1, 2), torch.bfloat16, (36175872, 8), (51380224, 8)),
    ((640, 127), (0,), torch.float32, (), ()),
    ((7, 33, 65), (0, 2), torch.float16, (), ()),
]


@pytest.mark.parametrize(("shape", "dims", "dtype", "small", "large"), RECORDED)
def test_a_sum_takes_what_was_recorded(
    shape: tuple[int, ...], dims: tuple[int, ...], dtype: torch.dtype, small: tuple[int, ...], large: tuple[int, ...]
) -> None:
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    assert buffers(tensor, dims, RTX_4070) == small
    assert buffers(tensor, dims, H200) == large
    assert buffers(tensor, [dim - len(shape) for dim in dims], H200) == large


def test_the_layout_counts_and_not_the_shape() -> None:
    along = torch.empty(768, 1024, device="meta").t()
    assert buffers(along, (0,), RTX_4070) == (), "of 1024 x 768 in rows it is 6 MB"
    assert buffers(torch.empty(0, 4, device="meta"), (0,), RTX_4070) == ()
    assert buffers(torch.empty((), device="meta"), (), RTX_4070) == ()


def test_a_traced_sum_holds_them_beside_its_result_and_no_longer() -> None:
    with FakeTensorMode(), CudaPricing(RTX_4070) as pricing, pricing.memory as memory:
        gradients = torch.empty(1024, 768)
        before = memory.live_bytes
        total = gradients.sum(0)
        assert memory.peak_bytes == before + total.numel() * 4 + 6291456 + 24
        assert memory.live_bytes == before + total.numel() * 4
