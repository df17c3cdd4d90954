"""Attention masks in the form that each family's blocks take, made without a look at the values.

transformers leaves the mask out when a batch has no padding: the memory of a step would then depend on the data, and
could not be known under FakeTensorMode. So every batch gets an explicit mask. Its shape depends on shapes alone, and
an additive ``[batch, 1, 1, tokens]`` mask is broadcast by the attention kernels: it costs no ``tokens x tokens``.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from sherl.shapes import Bool, Float, Int

Mask: TypeAlias = Tensor | dict[str, Tensor]
Windows: TypeAlias = Literal["none", "all", "by_type"]

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


def for_streams(
    config: Any, keep: Bool[Tensor, "batch keys"], queries: int, dtype: torch.dtype, windows: Windows
) -> Mask:
    """The masks of a decoder that reads the last ``queries`` of these keys: each sees what came before it, and itself.

    ``[batch, 1, queries, keys]``, as padding may stand on either side; what is padding sees itself alone beside the tokens
    before it, so no row is without a key. A window (``sliding_window`` of the configuration) reaches over so many tokens,
    padding not counted. windows: ``none``; ``all`` blocks; ``by_type``: a mask for each type of block.
    """
    keys = keep.shape[1]
    places = torch.arange(keys, device=keep.device)
    own = places[-queries:, None]
    blocked = (places > own) | (~keep[:, None, :] & (places != own))
    full = _additive_of(blocked, dtype)
    reach = None if windows == "none" else config.sliding_window
    windowed = full
    if reach is not None and keys > reach:  # else every token is within reach of every other
        positions = positions_of(keep)
        windowed = _additive_of(blocked | (positions[:, None, :] <= positions[:, -queries:, None] - int(reach)), dtype)
    if windows == "by_type":
        return {"full_attention": full, "sliding_attention": windowed}
    return windowed


def positions_of(keep: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "batch tokens"]:
    """Each token's place, counted from the first that is no padding; 0 for padding before it."""
    return (keep.cumsum(dim=1) - 1).clamp(min=0)


def _additive_of(blocked: Bool[Tensor, "batch queries keys"], dtype: torch.dtype) -> Tensor:
    return torch.zeros(blocked.shape, dtype=dtype, device=blocked.device).masked_fill_(blocked, MASKED)[:, None]
