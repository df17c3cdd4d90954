"""The third part of a fusion: the merged feature is brought back to the backbone's width."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional

from sherl.fusion.config import FusionConfig, FusionShape
from sherl.fusion.linear import AddedLinear
from sherl.fusion.registries import EXPANSIONS
from sherl.shapes import Float


class Expansion(nn.Module, ABC):
    """A merged feature, d wide, to the width D."""

    @abstractmethod
    def forward(
        self, merged: Float[Tensor, "batch tokens inner"], scale: Tensor | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """up(e'), or ``scale`` (a scalar) times it."""


@EXPANSIONS.register("linear")
class LinearExpansion(Expansion):
    """up(e') = e' U + b, one up-projection for all features (section 3.2)."""

    def __init__(self, shape: FusionShape, config: FusionConfig) -> None:  # noqa: ARG002 - every part is built alike
        super().__init__()
        self.up = AddedLinear(shape.inner_width, shape.width)

    def forward(
        self, merged: Float[Tensor, "batch tokens inner"], scale: Tensor | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        if scale is None:
            expanded: Tensor = self.up(merged)
            return expanded
        # u (e' U + b) = (u e') U + u b. The gradient of u then needs only narrow tensors; after the up-projection
        # it would make backward keep up(e'), a tensor of the backbone's width.
        scale = scale.to(merged.dtype)
        weight, bias = self.up.weight.to(merged.dtype), self.up.bias.to(merged.dtype)
        return functional.linear(merged * scale, weight, bias * scale)


@EXPANSIONS.register("rectified")
class RectifiedExpansion(LinearExpansion):
    """up(ReLU(e')), as in the released code."""

    def forward(
        self, merged: Float[Tensor, "batch tokens inner"], scale: Tensor | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        return super().forward(functional.relu(merged), scale)
