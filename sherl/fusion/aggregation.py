"""The second part of a fusion: the stack of features becomes one, token by token (eqs. 2 and 3)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from sherl.fusion.config import FusionConfig, FusionShape
from sherl.fusion.linear import AddedLinear
from sherl.fusion.registries import AGGREGATIONS
from sherl.shapes import Float

# Vectors shorter than this have no direction: 1 / length and its gradient stay far inside float32 and bfloat16.
SHORTEST = 1e-12


class Aggregation(nn.Module, ABC):
    """A stack of n features, the last of which is the guide e and the others E, to one feature e'.

    Nothing may mix tokens: then features can be fused in chunks of tokens.
    """

    @abstractmethod
    def forward(self, stack: Float[Tensor, "n batch tokens inner"]) -> Float[Tensor, "batch tokens inner"]:
        """The merged feature of every token."""


@AGGREGATIONS.register("mtsa")
class RedundancyAggregation(Aggregation):
    """Multi-tiered sensing aggregation: attention of the guide over E, each weight divided by its redundancy.

    For one token, with n - 1 rows in E:

        S = cos(E, E),  r = rowsum(ReLU(S))                              (eq. 2)
        m = l1norm(ReLU(similarity) / r),  e' = m E + e                  (eq. 3)

    similarity is e E^T (``inner``) or linear(E * e) with a learned d -> 1 layer (``learned``). ``config.epsilon`` is
    added to both norms. A row of zeros is like no other (its redundancy is 1), and a token whose weights are all zero
    gives e alone: no division by zero, neither in values nor in gradients.

    Cosines come from the Gram matrix of E, so that backward keeps the n x n figures of a token and no further copy of
    E: the normalised rows and the products E * e are never made.
    """

    def __init__(self, shape: FusionShape, config: FusionConfig) -> None:
        super().__init__()
        self.epsilon = config.epsilon
        # With the guide alone there is nothing to compare: a layer here would never get a gradient.
        has_scorer = config.similarity == "learned" and shape.num_features > 1
        self.score = AddedLinear(shape.inner_width, 1) if has_scorer else None

    def forward(self, stack: Float[Tensor, "n batch tokens inner"]) -> Float[Tensor, "batch tokens inner"]:
        guide = stack[-1]
        if len(stack) == 1:
            return guide
        early = stack[:-1].flatten(1, 2).transpose(0, 1)  # E, [rows, n - 1, inner], a view
        rows = guide.flatten(0, 1).unsqueeze(1)  # e, [rows, 1, inner]
        weights = self._weights(early, rows)
        return torch.baddbmm(rows, weights.to(rows.dtype).unsqueeze(1), early).view_as(guide)

    def _weights(
        self, early: Float[Tensor, "rows early inner"], guide: Float[Tensor, "rows 1 inner"]
    ) -> Float[Tensor, "rows early"]:
        """m of eq. 3, at least in float32: they are few, and quotients of sums."""
        raw = self._similarity(early, guide).relu() / self._redundancy(early)
        total = raw.sum(dim=-1, keepdim=True) + self.epsilon
        return raw / total.where(total > SHORTEST**2, 1.0)

    def _similarity(
        self, early: Float[Tensor, "rows early inner"], guide: Float[Tensor, "rows 1 inner"]
    ) -> Float[Tensor, "rows early"]:
        query, bias = guide, None
        if self.score is not None:
            # linear(E * e) = E (w * e) + b: the product with the one narrow vector instead of with every row of E
            query = guide * self.score.weight.to(guide.dtype)
            bias = self.score.bias
        scores = _wide(torch.bmm(early, query.transpose(1, 2)).squeeze(-1))
        return scores if bias is None else scores + bias.to(scores.dtype)

    def _redundancy(self, early: Float[Tensor, "rows early inner"]) -> Float[Tensor, "#rows early"]:
        """r of eq. 2, at least 1 for every row that has a direction, and 1 for a row that has none."""
        gram = _wide(torch.bmm(early, early.transpose(1, 2)))
        squared = gram.diagonal(dim1=1, dim2=2)
        directed = squared > SHORTEST**2
        # where() in front of the root, not behind it: the root's gradient at 0 is infinite, and infinity times 0 NaN
        inverse = (squared.where(directed, 1.0).sqrt() + self.epsilon).reciprocal()
        cosine = gram * inverse.unsqueeze(1) * inverse.unsqueeze(2)
        return functional.relu(cosine).sum(dim=-1).where(directed, 1.0)


def _wide(figures: Tensor) -> Tensor:
    """In float32 at least."""
    return figures.to(torch.promote_types(figures.dtype, torch.float32))
