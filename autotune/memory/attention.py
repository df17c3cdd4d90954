"""Scaled dot product attention as a GPU would run it: which kernel torch takes there, and what that allocates and keeps.

On a CPU torch has kernels of its own for attention, so a trace of a CPU step says nothing of a GPU's. Here the choice of
``aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`` (torch 2.11 to 2.13) is made anew, and each kernel is stood in
for by an autograd function that makes the tensors which the kernel makes and keeps what it keeps. Nothing is computed:
these run on fake tensors.

    cudnn      half precision on 9.x and 10.x, dropout in sixteenths: out, logsumexp. Its workspace in backward
               is known to cuDNN alone; taken for a float32 gradient of the query and its row sums.
    flash      half precision from 8.0 on, no mask: out, logsumexp; float32 gradient of the query in backward
    efficient  out, logsumexp rounded up to 32 queries, the mask padded to 8; in backward the row sums, for each tile of
               queries a float32 gradient, and the mask's gradient for every head and row of the batch, padded to 16
    math       scores, their softmax and dropout's mask, all of tokens x tokens
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from autotune.memory.gpu import GpuKind

AttentionKernel = Literal["cudnn", "flash", "efficient", "math"]

_HALF = (torch.float16, torch.bfloat16)


def chosen_kernel(
    gpu: GpuKind,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    dropout: float = 0.0,
    causal: bool = False,
    gradients: bool = False,
) -> AttentionKernel:
    """The kernel that torch takes on this GPU; query, key and value are [batch, heads, tokens, head width]."""
    if gpu.prefers_cudnn and _cudnn_fits(gpu, query, key, value, dropout):
        return "cudnn"
    if _flash_fits(gpu, query, key, value, mask, dropout, causal, gradients):
        return "flash"
    return "efficient" if _efficient_fits(gpu, query, key, value) else "math"


def _cudnn_fits(gpu: GpuKind, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    widths = (query.shape[-1], value.shape[-1])
    tokens_fit = key.shape[-2] != 1 and not (dropout > 0 and query.shape[-2] == 1)
    return (
        gpu.capability >= (8, 0)
        and query.dim() == 4
        and query.dtype in _HALF
        and dropout * 16 == math.floor(dropout * 16)
        and all(width <= 128 and width % 8 == 0 for width in widths)
        and tokens_fit
        and max(query.shape[0], query.shape[1]) <= 65535
    )


def _flash_fits(
    gpu: GpuKind,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    gradients: bool,
) -> bool:
    width = query.shape[-1]
    consumer = (8, 6) <= gpu.capability <= (8, 9) or (12, 0) <= gpu.capability <= (12, 1)
    if gradients and consumer and not (width <= 192 or (dropout == 0 and width > 224)):
        return False
    return (
        (8, 0) <= gpu.capability <= (12, 1)
        and query.dim() == 4
        and query.dtype in _HALF
        and mask is None
        and width == key.shape[-1] == value.shape[-1] <= 256
        and not (causal and query.shape[-2] != key.shape[-2])
    )


def _efficient_fits(gpu: GpuKind, query: Tensor, key: Tensor, value: Tensor) -> bool:
    half = query.dtype in _HALF
    alignment = 4 if gpu.capability[0] >= 8 else 1
    if gpu.capability[0] >= 8 or (gpu.capability[0] >= 7 and half):  # tensor cores
        alignment = max(alignment, 8 if half else 4)
    dtypes = (torch.float16, torch.float32) + ((torch.bfloat16,) if gpu.capability[0] >= 8 else ())
    return (
        query.dim() == 4
        and query.dtype in dtypes
        and query.shape[-1] == key.shape[-1]
        and query.shape[-1] % alignment == 0
        and value.shape[-1] % alignment == 0
        and all(_is_dense(tensor) and _is_aligned(tensor, alignment) for tensor in (query, key, value))
    )


def _is_dense(tensor: Tensor) -> bool:
    return tensor.stride(-1) == 1 or tensor.shape[-1] == 1


def _is_aligned(tensor: Tensor, alignment: int) -> bool:
    return tensor.storage_offset() % alignment == 0


def attention(
    gpu: GpuKind,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Stands in for :func:`torch.nn.functional.scaled_dot_product_attention` (same arguments, same shape of result) and
    allocates and keeps what the GPU's kernel would; the values mean nothing."""
    gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    kernel = chosen_kernel(gpu, query, key, value, attn_mask, dropout=dropout_p, causal=is_causal, gradients=gradients)
    if enable_gqa and kernel != "flash" and key.shape[-3] != query.shape[-3]:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    bias = None if attn_mask is None else _additive(attn_mask, query.dtype)
    if kernel == "math":
        return _math(query, key, value, bias, dropout_p, is_causal, scale)
    if kernel == "flash":
        return _flash(query, key, value, dropout_p, gradients)
    if kernel == "efficient" and bias is not None:
        bias = _padded(bias).expand(*query.shape[:3], key.shape[2])
    result: Tensor = _Fused.apply(query, key, value, bias, kernel, gpu, gradients)  # type: ignore[no-untyped-call]  # torch has no types here
    return result


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask becomes one that is added to the scores."""
    if mask.dtype is not torch.bool:
        return mask
    kept, left_out = (torch.full((), value, dtype=dtype, device=mask.device) for value in (0.0, -math.inf))
    return torch.where(mask, kept, left_out)


def _padded(bias: Tensor) -> Tensor:
    """A bias whose rows begin at multiples of 8 numbers, cut back to its own width."""
    if all(stride % 8 == 0 for stride in bias.stride()[:-1]) and bias.stride(-1) == 1:
        return bias
    width = bias.shape[-1]
    return functional.pad(bias, (0, 8 - width % 8))[..., :width]


def _flash(query: Tensor, key: Tensor, value: Tensor, dropout: float, gradients: bool) -> Tensor:
    width = query.shape[-1]
    if width % 8:  # the kernel wants head widths in eighths; torch pads, under autograd's eyes
        query, key, value = (functional.pad(tensor, (0, -width % 8)) for tensor in (query, key, value))
    result: Tensor = _Flash.apply(query, key, value, dropout, gradients)  # type: ignore[no-untyped-call]  # torch has no types here
    return result[..., :width]


def _like_rows(tensor: Tensor, heads: int | None = None) -> Tensor:
    """New memory of this shape, laid out [batch, tokens, heads, width] as the kernels do."""
    batch, own_heads, tokens, width = tensor.shape
    return tensor.new_empty(batch, tokens, own_heads if heads is None else heads, width).transpose(1, 2)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, dropout: float, gradients: bool) -> Tensor:
        batch, heads, tokens, _ = query.shape
        out = _like_rows(query)
        logsumexp = query.new_empty(batch, heads, tokens, dtype=torch.float32)
        random_state = query.new_empty(2, dtype=torch.int64)
        query.new_empty(1, dtype=torch.int64)  # the offset of the random numbers
        if gradients:
            ctx.save_for_backward(query, key, value, out, logsumexp, random_state)
        del dropout
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, _, _, _ = ctx.saved_tensors
        grad = grads[0].transpose(1, 2).contiguous()
        batch, heads, tokens, width = query.shape
        results = tuple(_like_rows(tensor) for tensor in (query, key, value))
        rounded = _up(tokens, 128)
        sums = query.new_empty(batch, heads, rounded, dtype=torch.float32)
        accumulated = query.new_empty(batch, rounded, heads, _up(width, 32), dtype=torch.float32)
        expanded = [_like_rows(tensor, heads) for tensor in (key, value) if key.shape[1] != heads]
        del grad, sums, accumulated, expanded
        return (*results, None, None)


class _Fused(torch.autograd.Function):
    """The memory-efficient kernel and cuDNN's: they keep query, key, value, bias, out and logsumexp. The random seed and
    offset of the former lie on the host."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor | None,
        kernel: AttentionKernel,
        gpu: GpuKind,
        gradients: bool,
    ) -> Tensor:
        batch, heads, tokens, _ = query.shape
        out = query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)
        columns = tokens if kernel == "cudnn" else _up(tokens, 32)
        logsumexp = query.new_empty(batch, heads, columns, dtype=torch.float32) if gradients else None
        if kernel == "efficient" and query.dtype in _HALF and value.shape[-1] > 128:
            query.new_empty(out.shape, dtype=torch.float32)  # sums that do not fit the registers
        if gradients:
            ctx.save_for_backward(query, key, value, bias, out, logsumexp)
            ctx.kernel, ctx.gpu = kernel, gpu
            ctx.bias_learns = bias is not None and bias.requires_grad
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, _, out, _ = ctx.saved_tensors
        grad = grads[0].transpose(1, 2).contiguous()
        results: tuple[Tensor | None, ...] = tuple(_like_rows(tensor) for tensor in (query, key, value))
        batch, heads, tokens, width = query.shape
        num_keys = key.shape[2]
        if ctx.kernel == "cudnn":
            query.new_empty(query.numel() + batch * heads * tokens, dtype=torch.float32)
            return (*results, None, None, None, None)
        learnt = None
        if ctx.bias_learns:
            learnt = query.new_empty(batch, heads, tokens, _up(num_keys, 16))[..., :num_keys]
        if query.dtype in _HALF:
            sums = query.new_empty(batch, heads, tokens, dtype=torch.float32)
        else:  # float32 kernels leave the row sums to torch
            sums = (grad * out.transpose(1, 2)).sum(-1).transpose(-2, -1).contiguous()
        work = query.new_empty(_efficient_workspace(ctx.gpu, query, value, num_keys), dtype=torch.float32)
        del grad, sums, work, width
        return (*results, learnt, None, None, None)


def _efficient_workspace(gpu: GpuKind, query: Tensor, value: Tensor, num_keys: int) -> int:
    """Float32 numbers that the backward kernel works in: a gradient tile, with its lock, for each tile of queries, and for
    half precision at large head widths gradients of keys and values (``mem_eff_attention/kernel_backward.h``)."""
    batch, heads, tokens, width = query.shape
    widest = max(width, value.shape[-1])
    half = query.dtype in _HALF
    rows, columns, limit = _tiles(gpu, half, widest)
    per_head = -(-tokens // rows) * -(-width // columns) * (4 + rows * columns)
    if half and limit > rows:
        per_head += _up(num_keys, columns) * (_up(width, rows) + _up(value.shape[-1], rows))
    return batch * heads * _up(per_head, 4)


def _tiles(gpu: GpuKind, half: bool, width: int) -> tuple[int, int, int]:
    """Queries and keys of a tile, and the head width up to which this kernel serves."""
    for limit in (32, 64):
        if width <= limit:
            return 64, 64, limit
    if half and width <= 96 and gpu.capability in ((8, 6), (8, 9)):
        return 128, 64, 96
    if width <= 128:
        return (128, 128, 128) if half and gpu.capability >= (8, 0) else (128, 64, 128)
    return 128, 64, 65536


def _math(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """The composite of ``attention.cpp``; half precision is computed in float32."""
    dtype = query.dtype
    if dtype in _HALF:
        query, key, value = query.float(), key.float(), value.float()
        bias = None if bias is None else bias.float()
    factor = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else abs(scale))
    if causal:
        allowed = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        bias = _additive(allowed, query.dtype)
    scores = torch.matmul(query * factor, key.transpose(-2, -1) * factor)
    if bias is not None:
        scores.add_(bias)
    weights = torch.softmax(scores, -1)
    del scores
    masked = torch.empty_like(weights, dtype=torch.bool)  # rows that are masked throughout are looked for
    del masked
    if dropout > 0:
        weights = torch.native_dropout(weights, dropout, True)[0]
    return torch.matmul(weights, value).to(dtype)
