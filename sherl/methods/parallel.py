"""UniPT's parallel network: interaction of each layer with the last one, and their sum by confidence.

Diao et al., UniPT (CVPR 2024); what the released code does decides where the paper leaves it open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sherl.methods.side import SideLinear
from sherl.shapes import Bool, Float

SMALLEST = 1e-12


class AddedLayerNorm(nn.LayerNorm):
    """A layer norm with float32 parameters, computed in the precision of what it is given."""

    def forward(self, input: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:  # torch's name
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return functional.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


@dataclass(frozen=True)
class Context:
    """What an encoder's network gives a decoder's: narrow features, and which of their positions count."""

    hidden: Float[Tensor, "batch source inner"]
    keep: Bool[Tensor, "batch source"]


class ParallelNetwork(nn.Module):
    """Hidden states h_0 ... h_N of one stack to one narrow feature a token.

    With t_i = LayerNorm(down_i(h_i)) and the anchor t_N, for each i < N:

        A_i = l1norm over tokens (ReLU(anchor t_i^T)) + I,   merged_i = A_i t_i
        c = softmax over i (linear(mean(anchor) * mean(t_i)))
        out = anchor + proj(sum_i c_i merged_i),             proj = LayerNorm(linear)

    Padding takes no part in A and in the means. causal (this project's variant): row k of A sees tokens up to k, and the
    means are over tokens up to k, each token with its own confidences. with_context: an encoder's features are one more
    term of the sum, attended to in the same way, without the identity: its tokens are others.

    The linear layer of the confidences has no bias: it would move them all alike.
    """

    def __init__(self, widths: Sequence[int], inner: int, *, causal: bool, with_context: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.with_context = with_context
        self.down = nn.ModuleList(SideLinear(width, inner) for width in widths)
        self.norm = nn.ModuleList(AddedLayerNorm(inner) for _ in widths)
        self.confidence = SideLinear(inner, 1, bias=False)
        self.projection = nn.Sequential(SideLinear(inner, inner), AddedLayerNorm(inner))

    def forward(
        self,
        states: Sequence[Float[Tensor, "batch tokens _"]],
        keep: Bool[Tensor, "batch tokens"],
        context: Context | None = None,
    ) -> Float[Tensor, "batch tokens inner"]:
        """``states``: h_0 ... h_N, the anchor's last; ``keep``: which positions count; ``context``: of an encoder."""
        *targets, anchor = (norm(down(state)) for down, norm, state in zip(self.down, self.norm, states, strict=True))
        mean = self._mean(anchor, keep)
        merged = [self._attend(anchor, target, keep, causal=self.causal) + target for target in targets]
        means = [self._mean(target, keep) for target in targets]
        if self.with_context and context is not None:
            merged.append(self._attend(anchor, context.hidden, context.keep, causal=False))
            means.append(_mean_of_all(context.hidden, context.keep))
        scores = torch.cat([self.confidence(mean * other) for other in means], dim=-1)
        shares = scores.softmax(dim=-1)  # [batch, tokens or 1, layers]
        mixed = sum(shares[..., i : i + 1] * one for i, one in enumerate(merged))
        out: Tensor = anchor + self.projection(mixed)
        return out

    def _mean(
        self, feature: Float[Tensor, "batch tokens inner"], keep: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch _ inner"]:
        if not self.causal:
            return _mean_of_all(feature, keep)
        weights = keep.to(_wide(feature)).unsqueeze(-1)
        total = (feature * weights).cumsum(dim=1)
        return (total / weights.cumsum(dim=1).clamp(min=1.0)).to(feature.dtype)

    @staticmethod
    def _attend(anchor: Tensor, target: Tensor, keep: Tensor, *, causal: bool) -> Tensor:
        """(l1norm of ReLU(anchor t^T)) t: normalised behind the product, so that one tokens x tokens figure is kept."""
        counted = target * keep.unsqueeze(-1).to(target.dtype)
        scores = torch.bmm(anchor, counted.transpose(1, 2))
        weights = scores.tril().relu_() if causal else scores.relu_()
        total = weights.sum(dim=-1, keepdim=True, dtype=_wide(weights))
        attended = torch.bmm(weights, counted)
        return (attended / total.where(total > SMALLEST, 1.0)).to(attended.dtype)


def _mean_of_all(
    feature: Float[Tensor, "batch tokens inner"], keep: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch 1 inner"]:
    weights = keep.to(_wide(feature))
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1.0)
    return torch.bmm(weights.unsqueeze(1).to(feature.dtype), feature)


def _wide(figures: Tensor) -> torch.dtype:
    """float32 at least: sums over many tokens."""
    return torch.promote_types(figures.dtype, torch.float32)
