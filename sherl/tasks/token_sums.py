"""How well target tokens are predicted: sums over each row, so that logits of all rows are never held together."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sherl.backbones.writing import PADDING
from sherl.errors import DataError
from sherl.metrics import METRICS, Vector
from sherl.shapes import Float, Int

SUMMED_LOSS, TOKENS, RIGHT = range(3)
"""Columns of the outputs: nats of a row's tokens together, how many these are, how many of them were the likeliest."""

_COUNTING = ("next_token_accuracy", "exact_match")


def summed(
    logits: Float[Tensor, "batch positions words"], following: Int[Tensor, "batch positions"]
) -> Float[Tensor, "batch 3"]:
    """Outputs of rows whose logits are these; ``following`` is what each position is to predict, -100 where nothing."""
    each = cross_entropy(logits.float().flatten(0, 1), following.flatten(), ignore_index=PADDING, reduction="none")
    losses = each.view(following.shape)
    counts = following != PADDING
    right = (logits.argmax(dim=-1) == following) & counts
    return torch.stack([losses.sum(dim=1), counts.sum(dim=1).float(), right.sum(dim=1).float()], dim=1)


def as_vector(sums: Float[Tensor, "rows 3"]) -> Vector:
    """float64 [rows, 3]."""
    vector: Vector = sums.detach().cpu().numpy().astype(np.float64)
    return vector


def scores(names: Iterable[str], sums: Float[Tensor, "rows 3"], labels: Int[Tensor, "rows _"]) -> dict[str, float]:
    """These metrics over the tokens of all rows together; all NaN where a row's loss is not finite.

    ``exact_match`` is the share of rows all of whose tokens were the likeliest, each behind the ones before it: such a row is
    what is written greedily, up to its last token.

    Raises:
        DataError: there is no token to predict, or sums and labels differ in their number of rows.
    """
    if len(sums) != len(labels):
        raise DataError(f"{len(sums)} rows of outputs but {len(labels)} rows of labels; give one for each row.")
    columns = as_vector(sums)
    if not len(columns) or columns[:, TOKENS].sum() == 0:
        raise DataError("There is no token to score: at least one row with two tokens is needed.")
    if not np.isfinite(columns).all():
        return dict.fromkeys(names, math.nan)
    return {
        name: METRICS.get(name)(columns[:, TOKENS], columns[:, RIGHT if name in _COUNTING else SUMMED_LOSS])
        for name in names
    }
