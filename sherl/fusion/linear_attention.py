"""Linear attention over layers without eq. 2: the rivals of MTSA that SHERL's fig. 4 calls LinearA and LinearA (r)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sherl.fusion.aggregation import RedundancyAggregation
from sherl.fusion.config import FusionConfig, FusionShape
from sherl.fusion.registries import AGGREGATIONS
from sherl.shapes import Float

# A learned r stays above this: a weight divided by nothing would be all there is.
SMALLEST = 1e-3


@AGGREGATIONS.register("linear")
class LinearAggregation(RedundancyAggregation):
    """m = l1norm(ReLU(similarity)), e' = m E + e: eq. 3 with r = 1."""

    def _redundancy(self, early: Float[Tensor, "rows early inner"]) -> Float[Tensor, "#rows early"]:
        return early.new_ones(1, early.shape[1], dtype=torch.promote_types(early.dtype, torch.float32))


@AGGREGATIONS.register("linear_learned")
class LearnedLinearAggregation(RedundancyAggregation):
    """m = l1norm(ReLU(similarity) / r), e' = m E + e, with one learned r for each early layer, 1 at the start.

    r counts as 0.001 where training brought it below.
    """

    def __init__(self, shape: FusionShape, config: FusionConfig) -> None:
        super().__init__(shape, config)
        # with the guide alone there is nothing to weigh
        self.redundancy = nn.Parameter(torch.ones(shape.num_features - 1)) if shape.num_features > 1 else None

    def _redundancy(self, early: Float[Tensor, "rows early inner"]) -> Float[Tensor, "#rows early"]:
        assert self.redundancy is not None
        learned = self.redundancy.to(torch.promote_types(early.dtype, torch.float32))
        return learned.clamp(min=SMALLEST).unsqueeze(0)
