"""Pooling over layers: SHERL's fig. 4, MaxPool and AvePool."""

from __future__ import annotations

from torch import Tensor

from sherl.fusion.aggregation import Aggregation
from sherl.fusion.config import FusionConfig, FusionShape
from sherl.fusion.registries import AGGREGATIONS
from sherl.shapes import Float


@AGGREGATIONS.register("max")
class MaxAggregation(Aggregation):
    """e' = the largest value of each channel over all n features, the guide's among them."""

    def __init__(self, shape: FusionShape, config: FusionConfig) -> None:  # noqa: ARG002 - every part is built alike
        super().__init__()

    def forward(self, stack: Float[Tensor, "n batch tokens inner"]) -> Float[Tensor, "batch tokens inner"]:
        return stack.amax(dim=0)


@AGGREGATIONS.register("mean")
class MeanAggregation(Aggregation):
    """e' = the mean of all n features, the guide among them."""

    def __init__(self, shape: FusionShape, config: FusionConfig) -> None:  # noqa: ARG002 - every part is built alike
        super().__init__()

    def forward(self, stack: Float[Tensor, "n batch tokens inner"]) -> Float[Tensor, "batch tokens inner"]:
        return stack.mean(dim=0)
