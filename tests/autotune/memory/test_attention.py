"""Attention as a GPU runs it: which kernel torch takes, and the bytes that each keeps, against sums done by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autotune.memory.allocated import TensorMemory
from autotune.memory.attention import attention, chosen_kernel
from autotune.memory.gpu import GpuKind

AMPERE = GpuKind.of((8, 0), {})
HOPPER = GpuKind.of((9, 0), {})
TURING = GpuKind.of((7, 5), {})

ROWS, HEADS, TOKENS, WIDTH = 2, 4, 100, 32


def _inputs(
    dtype: torch.dtype = torch.float32, width: int = WIDTH, *, grad: bool = True, tokens: int = TOKENS
) -> tuple[Tensor, Tensor, Tensor]:
    one, two, three = (
        torch.zeros(ROWS, tokens, HEADS, width, dtype=dtype, requires_grad=grad).transpose(1, 2) for _ in range(3)
    )
    return one, two, three


def _mask(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(ROWS, 1, 1, TOKENS, dtype=dtype)


@pytest.mark.parametrize(
    ("gpu", "dtype", "width", "masked", "settings", "kernel"),
    [
        (AMPERE, torch.float32, 32, True, {}, "efficient"),
        (AMPERE, torch.float32, 30, True, {}, "math"),
        (AMPERE, torch.bfloat16, 32, True, {}, "efficient"),
        (AMPERE, torch.bfloat16, 32, False, {}, "flash"),
        (AMPERE, torch.bfloat16, 36, True, {}, "math"),
        (AMPERE, torch.float16, 288, False, {}, "efficient"),
        (GpuKind.of((8, 6), {}), torch.bfloat16, 256, False, {"dropout": 0.1, "gradients": True}, "efficient"),
        (GpuKind.of((8, 6), {}), torch.bfloat16, 256, False, {"dropout": 0.1}, "flash"),
        (HOPPER, torch.bfloat16, 32, True, {}, "cudnn"),
        (HOPPER, torch.bfloat16, 32, True, {"dropout": 0.1}, "efficient"),
        (HOPPER, torch.bfloat16, 32, True, {"dropout": 0.125}, "cudnn"),
        (HOPPER, torch.bfloat16, 32, False, {"dropout": 0.1}, "flash"),
        (HOPPER, torch.float32, 32, True, {}, "efficient"),
        (GpuKind.of((9, 0), {"TORCH_CUDNN_SDPA_DEPRIORITIZED": "1"}), torch.bfloat16, 32, True, {}, "efficient"),
        (TURING, torch.bfloat16, 32, True, {}, "math"),
        (TURING, torch.float16, 32, False, {}, "efficient"),
    ],
)
def test_the_kernel_is_the_one_that_torch_takes(
    gpu: GpuKind, dtype: torch.dtype, width: int, masked: bool, settings: dict[str, Any], kernel: str
) -> None:
    with FakeTensorMode():
        mask = _mask(dtype) if masked else None
        assert chosen_kernel(gpu, *_inputs(dtype, width), mask, **settings) == kernel


def _forward_and_backward(
    gpu: GpuKind, dtype: torch.dtype, mask: Tensor | None, dropout: float = 0.0
) -> tuple[int, int, int]:
    """Bytes kept after the forward pass beside the output, the most during backward, and those left of gradients."""
    query, key, value = _inputs(dtype)
    with TensorMemory() as memory:
        memory.track(*(tensor for tensor in (query, key, value, mask) if tensor is not None))
        given = memory.live_bytes
        out = attention(gpu, query, key, value, mask, dropout_p=dropout)
        assert out.shape == (ROWS, HEADS, TOKENS, WIDTH)
        kept = memory.live_bytes - given - out.numel() * out.element_size()
        memory.peak_bytes = 0
        grads = torch.autograd.grad(out, (query, key, value), torch.zeros_like(out))
        assert all(grad.shape == out.shape for grad in grads)
        return kept, memory.peak_bytes - given, sum(grad.numel() * grad.element_size() for grad in grads)


NUMBERS = ROWS * HEADS * TOKENS * WIDTH
LOGSUMEXP = ROWS * HEADS * 128 * 4  # 100 queries rounded up to 128
PADDED_MASK = ROWS * 104  # 100 keys rounded up to 104


def test_the_efficient_kernel_keeps_little() -> None:
    with FakeTensorMode():
        kept, most, gradients = _forward_and_backward(AMPERE, torch.float32, _mask(), dropout=0.1)
        assert kept == LOGSUMEXP + PADDED_MASK * 4
        # two tiles of 64 queries a head, each with 64 x 64 numbers and a lock of 4
        work = ROWS * HEADS * 2 * (4 + 64 * 64) * 4
        sums = ROWS * HEADS * TOKENS * 4
        assert most == kept + NUMBERS * 4 * 2 + gradients + sums + work  # the output and its gradient besides
        half, _, _ = _forward_and_backward(AMPERE, torch.bfloat16, _mask(torch.bfloat16))
        assert half == LOGSUMEXP + PADDED_MASK * 2
        aligned = torch.zeros(ROWS, 1, 1, 104)[..., :TOKENS]
        assert _forward_and_backward(AMPERE, torch.float32, aligned)[0] == LOGSUMEXP, "this one needs no padding"


def test_flash_keeps_the_row_sums_alone() -> None:
    with FakeTensorMode():
        kept, most, gradients = _forward_and_backward(AMPERE, torch.bfloat16, None)
        assert kept == ROWS * HEADS * TOKENS * 4 + 16
        accumulated, sums = ROWS * HEADS * 128 * WIDTH * 4, ROWS * HEADS * 128 * 4
        assert most == kept + NUMBERS * 2 * 2 + gradients + accumulated + sums


def test_cudnn_keeps_the_row_sums() -> None:
    with FakeTensorMode():
        kept, most, gradients = _forward_and_backward(HOPPER, torch.bfloat16, _mask(torch.bfloat16))
        assert kept == ROWS * HEADS * TOKENS * 4
        assert most == kept + NUMBERS * 2 * 2 + gradients + (NUMBERS + ROWS * HEADS * TOKENS) * 4


def test_the_composite_keeps_matrices_of_tokens_by_tokens() -> None:
    scores = ROWS * HEADS * TOKENS * TOKENS
    with FakeTensorMode():
        gpu = TURING
        kept, _, _ = _forward_and_backward(gpu, torch.bfloat16, _mask(torch.bfloat16), dropout=0.1)
        # the softmax, dropout's result and mask; query, key and value in float32, the scaled ones in place of the first two
        assert kept >= scores * (4 + 4 + 1)
        assert kept <= scores * 9 + 4 * NUMBERS * 4


def test_without_gradients_nothing_is_kept() -> None:
    for gpu, dtype in ((AMPERE, torch.float32), (HOPPER, torch.bfloat16), (TURING, torch.bfloat16)):
        with FakeTensorMode(), torch.no_grad():
            inputs = _inputs(dtype)
            with TensorMemory() as memory:
                out = attention(gpu, *inputs, _mask(dtype))
                assert memory.live_bytes == out.numel() * out.element_size()


def test_a_boolean_mask_becomes_one_that_is_added() -> None:
    with FakeTensorMode():
        inputs = _inputs()
        mask = torch.ones(ROWS, 1, TOKENS, TOKENS, dtype=torch.bool)
        with TensorMemory() as memory:
            out = attention(AMPERE, *inputs, mask)
            kept = memory.live_bytes - out.numel() * 4
        assert kept == LOGSUMEXP + ROWS * TOKENS * 104 * 4, "in the query's dtype, padded; the other two are gone"


def test_shared_keys_are_repeated() -> None:
    with FakeTensorMode():
        query, _, _ = _inputs()
        shared = torch.zeros(ROWS, 2, TOKENS, WIDTH, requires_grad=True)
        out = attention(AMPERE, query, shared, shared, enable_gqa=True)
        (gradient,) = torch.autograd.grad(out, shared, torch.zeros_like(out))
        assert gradient.shape == shared.shape
