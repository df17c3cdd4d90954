"""The fourth part of a fusion: how the fused feature and the late layer's own input are mixed (section 3.2)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sherl.fusion.config import FusionConfig, FusionShape
from sherl.fusion.expansion import Expansion
from sherl.fusion.registries import GATES
from sherl.shapes import Float

TEMPERATURE = 0.1


class Gate(nn.Module, ABC):
    """Mixes up(e') with the late layer's own input by u = tanh(alpha / 0.1), alpha a learned scalar, 0 at start.

    The expansion is handed over rather than its result: a gate that scales it can do so while it is still narrow.
    """

    def __init__(self, shape: FusionShape, config: FusionConfig) -> None:  # noqa: ARG002 - every part is built alike
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(()))

    @property
    def mixing(self) -> Tensor:
        """u, a scalar in (-1, 1)."""
        return torch.tanh(self.alpha / TEMPERATURE)

    @abstractmethod
    def forward(
        self,
        own_input: Float[Tensor, "batch tokens width"],
        merged: Float[Tensor, "batch tokens inner"],
        expansion: Expansion,
    ) -> Float[Tensor, "batch tokens width"]:
        """What the late layer gets in place of its own input."""


@GATES.register("preserving")
class PreservingGate(Gate):
    """own input + u * up(e'): at the start the backbone computes what it was pre-trained to.

    While alpha is 0, exactly, alpha alone gets a gradient; after its first step everything does.
    """

    def forward(
        self,
        own_input: Float[Tensor, "batch tokens width"],
        merged: Float[Tensor, "batch tokens inner"],
        expansion: Expansion,
    ) -> Float[Tensor, "batch tokens width"]:
        expanded: Tensor = expansion(merged, self.mixing)
        return own_input + expanded


@GATES.register("released")
class ReleasedGate(Gate):
    """up(e') + u * own input, as in the released code: at the start the layer does not see its own input."""

    def forward(
        self,
        own_input: Float[Tensor, "batch tokens width"],
        merged: Float[Tensor, "batch tokens inner"],
        expansion: Expansion,
    ) -> Float[Tensor, "batch tokens width"]:
        expanded: Tensor = expansion(merged)
        return expanded + self.mixing.to(own_input.dtype) * own_input
