"""The first part of a fusion: every feature is brought down to the inner width (eq. 1 and the text before it)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sherl.fusion.config import FusionConfig, FusionShape
from sherl.fusion.linear import AddedLinear, StackedLinear
from sherl.fusion.registries import PROJECTIONS
from sherl.shapes import Float


class Projection(nn.Module, ABC):
    """Features h_0 ... h_{n-1}, each of its width, to one stack F' of n features, d wide. Nothing mixes tokens."""

    @abstractmethod
    def forward(self, features: Sequence[Float[Tensor, "batch tokens _"]]) -> Float[Tensor, "n batch tokens inner"]:
        """The stack of projected features, in the order given."""


@PROJECTIONS.register("plain")
class PlainProjection(Projection):
    """F_n = ReLU(h_n A_n + a_n), with n unshared layers."""

    def __init__(self, shape: FusionShape, config: FusionConfig) -> None:  # noqa: ARG002 - every part is built alike
        super().__init__()
        layers = (AddedLinear(width, shape.inner_width) for width in shape.widths)
        self.down = nn.ModuleList(layers)

    def forward(self, features: Sequence[Float[Tensor, "batch tokens _"]]) -> Float[Tensor, "n batch tokens inner"]:
        # The stack is rectified in place: backward keeps one narrow copy, and none of the single projections.
        return torch.stack([down(feature) for down, feature in zip(self.down, features, strict=True)]).relu_()


@PROJECTIONS.register("refined")
class RefinedProjection(PlainProjection):
    """The plain projection, then eq. 1: G_n = sigmoid(F_n W_n), F'_n = G_n * (F_n W'_n + F_n), with biases."""

    def __init__(self, shape: FusionShape, config: FusionConfig) -> None:
        super().__init__(shape, config)
        self.scale = StackedLinear(shape.num_features, shape.inner_width, shape.inner_width)  # W
        self.refine = StackedLinear(shape.num_features, shape.inner_width, shape.inner_width)  # W'

    def forward(self, features: Sequence[Float[Tensor, "batch tokens _"]]) -> Float[Tensor, "n batch tokens inner"]:
        projected: Tensor = super().forward(features)
        rows = projected.flatten(1, 2)
        refined: Tensor = self.scale(rows).sigmoid_() * self.refine(rows).add_(rows)
        return refined.view_as(projected)
