"""Self-attention over the layers of one token: SHERL's fig. 4, MHSA."""

from __future__ import annotations

import torch
from torch import Tensor

from sherl.errors import SpecError
from sherl.fusion.aggregation import Aggregation
from sherl.fusion.config import FusionConfig, FusionShape
from sherl.fusion.linear import AddedLinear
from sherl.fusion.registries import AGGREGATIONS
from sherl.shapes import Float

HEADS = 4
"""The paper's number: "head = 4 works best" (section 4.3)."""


@AGGREGATIONS.register("attention")
class LayerAttention(Aggregation):
    """e' = out(softmax(q(e) k(F')^T / sqrt(d / 4)) v(F')) + e, with 4 heads over the n features F' of one token.

    A sequence is the layers of a token, never the tokens of a layer. Of such a self-attention the guide's row is what
    goes on, so the others' are not computed. A bias of the keys would shift all scores alike: there is none.

    Raises:
        SpecError: the inner width does not divide by the heads.
    """

    def __init__(self, shape: FusionShape, config: FusionConfig) -> None:
        super().__init__()
        inner = shape.inner_width
        if inner % HEADS:
            raise SpecError(_does_not_divide(shape, config))
        self.has_layers = shape.num_features > 1  # with the guide alone queries and keys would never get a gradient
        if self.has_layers:
            self.query, self.value, self.out = (AddedLinear(inner, inner) for _ in range(3))
            self.key = AddedLinear(inner, inner, bias=False)

    def forward(self, stack: Float[Tensor, "n batch tokens inner"]) -> Float[Tensor, "batch tokens inner"]:
        guide = stack[-1]
        if not self.has_layers:
            return guide
        inner = guide.shape[-1]
        rows = stack.flatten(1, 2).transpose(0, 1)  # [rows, n, inner]
        query = self.query(guide).reshape(-1, HEADS, 1, inner // HEADS)
        key = self.key(rows).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # [rows, heads, n, inner / heads]
        value = self.value(rows).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        scores = (query * (inner // HEADS) ** -0.5) @ key.transpose(2, 3)
        weights = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1).to(value.dtype)
        attended: Tensor = self.out((weights @ value).reshape(guide.shape))
        return attended + guide


def _does_not_divide(shape: FusionShape, config: FusionConfig) -> str:
    fitting = [r for r in range(1, shape.width + 1) if (shape.width // r) % HEADS == 0]
    given = config.reduction_factor
    near = ", ".join(str(r) for r in sorted(sorted(fitting, key=lambda r: abs(r - given))[:3]))
    advice = f"reduction factors near it that do: {near}" if near else "no reduction factor makes it do so"
    return (
        f"Fusion settings: aggregation 'attention' has {HEADS} heads, and the inner width {shape.inner_width} (width "
        f"{shape.width} by reduction_factor {given}) does not divide by them; {advice}. Or take aggregation 'mtsa'."
    )
