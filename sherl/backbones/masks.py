"""Attention masks in the form that each family's blocks take, made without a look at the values.

transformers leaves the mask out when a batch has no padding: the memory of a step would then depend on the data, and
could not be known under FakeTensorMode. So every batch gets an explicit mask. Its shape depends on shapes alone, and
an additive ``[batch, 1, 1, tokens]`` mask is broadcast by the attention kernels: it costs no ``tokens x tokens``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from sherl.shapes import Bool, Float, Int

Mask: TypeAlias = Tensor | dict[str, Tensor]

# Large enough that exp(MASKED) is exactly 0 beside any score, small enough to stay finite in bfloat16.
MASKED = -1e30


def additive(keep: Bool[Tensor, "batch keys"], dtype: torch.dtype) -> Float[Tensor, "batch 1 1 keys"]:
    """0 where a key may be attended to, a large negative number where not; broadcast over heads and queries."""
    mask = torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, MASKED)
    return mask[:, None, None, :]


def causal(queries: int, keys: int, *, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "1 1 queries keys"]:
    """The additive mask of a decoder whose last query is at the last key: each sees the keys up to its own position.

    Targets are padded on the right, so no token that counts sees padding, and one mask serves every row.
    """
    later = torch.ones(queries, keys, dtype=torch.bool, device=device).triu(keys - queries + 1)
    return torch.zeros(queries, keys, dtype=dtype, device=device).masked_fill(later, MASKED)[None, None]


def for_scores(config: Any, keep: Bool[Tensor, "batch tokens"], dtype: torch.dtype) -> Mask:
    """The mask of blocks that add it to their attention scores (BERT and its kin, MPNet)."""
    del config
    return additive(keep, dtype)


def for_flags(config: Any, keep: Bool[Tensor, "batch tokens"], dtype: torch.dtype) -> Mask:
    """The mask of models that make their own from 0 and 1 (DeBERTa)."""
    del config, dtype
    return keep.to(torch.int64)


def for_causal(
    config: Any, keep: Bool[Tensor, "batch tokens"], dtype: torch.dtype
) -> Float[Tensor, "batch 1 tokens _"]:
    """The mask of blocks in which a token sees itself and those before it, but for padding (CLIP's text encoder).

    A token that sees nothing at all, padding on the left, gets the same large number everywhere, and sees all of it: what
    it holds is read by nobody.
    """
    del config
    tokens = keep.shape[1]
    earlier = causal(tokens, tokens, dtype=dtype, device=keep.device)
    return torch.minimum(additive(keep, dtype), earlier)


def for_windows(config: Any, keep: Bool[Tensor, "batch tokens"], dtype: torch.dtype) -> Mask:
    """One mask for blocks that see everything, one for blocks that see a window around each token (ModernBERT)."""
    full = additive(keep, dtype)
    tokens = keep.shape[1]
    reach = int(config.sliding_window)
    if tokens <= reach + 1:  # every token is within reach of every other
        return {"full_attention": full, "sliding_attention": full}
    outside = ~within_reach(torch.arange(tokens, device=keep.device), reach)
    return {"full_attention": full, "sliding_attention": full.masked_fill(outside, MASKED)}


def within_reach(positions: Int[Tensor, " tokens"], reach: int) -> Bool[Tensor, "tokens tokens"]:
    """Which pairs of tokens are at most ``reach`` positions apart."""
    return (positions[:, None] - positions[None, :]).abs() <= reach
