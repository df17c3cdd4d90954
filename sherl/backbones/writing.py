"""Writing greedily, token by token: what decoders and encoder-decoders share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sherl.shapes import Bool, Float, Int

PADDING = -100
"""Stands in targets and in generated tokens behind the end."""
NOT_FINITE = -1
"""Stands in generated tokens where the logits were not finite."""


def write_greedily(
    start: Int[Tensor, "batch tokens"],
    score: Callable[[Tensor], Tensor],
    *,
    max_new_tokens: int,
    ends: int | list[int] | None,
    whole_length: bool,
    use_cache: bool,
) -> Int[Tensor, "batch max_new_tokens"]:
    """The best tokens, one after the other; see :meth:`sherl.methods.tuned.Tuned.generate`.

    start: what stands there before anything is written. score: logits [batch, 1, words] of what comes next. With
    ``use_cache`` it is given ``start`` first and then the last token alone, else all tokens each time. ends: tokens that
    end a row.
    """
    ended = torch.zeros_like(start[:, :1], dtype=torch.bool)
    written = torch.full((len(start), max_new_tokens), PADDING, dtype=torch.int64, device=start.device)
    unread = start
    for place in range(max_new_tokens):
        best = _best(score(unread))
        written[:, place : place + 1] = best.masked_fill(ended, PADDING)
        token = best.clamp(min=0)
        ended = ended | _is_end(best, ends)
        unread = token if use_cache else torch.cat([unread, token], dim=1)
        if not whole_length and bool(ended.all()):
            break
    return written


def pad_token_of(config: Any) -> int:
    """What stands in an input where nothing counts: the configuration's padding token, 0 where it names none."""
    pad = getattr(config, "pad_token_id", None)
    return 0 if pad is None else int(pad)


def _best(logits: Float[Tensor, "batch 1 words"]) -> Int[Tensor, "batch 1"]:
    # a sum is finite where all are, but for an overflow that no head comes near; it costs no mask of the logits' size
    finite = torch.isfinite(logits.sum(dim=-1, dtype=torch.float32))
    return logits.argmax(dim=-1).masked_fill(~finite, NOT_FINITE)


def _is_end(token: Int[Tensor, "batch 1"], ends: int | list[int] | None) -> Bool[Tensor, "batch 1"]:
    ended = token == NOT_FINITE
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None:
            ended = ended | (token == end)
    return ended
