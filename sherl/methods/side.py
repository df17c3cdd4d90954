"""What methods beside a wholly frozen backbone share: which positions count, and where their result goes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone, Batch
from sherl.fusion.linear import AddedLinear
from sherl.shapes import Bool, Float

OUTPUTS = ("replaced", "added")


class SideLinear(AddedLinear):
    """A linear layer with torch's usual initial values, as the released codes have; computed in its input's precision."""

    def reset_parameters(self) -> None:
        nn.Linear.reset_parameters(self)


def output_problem(output: object) -> list[str]:
    """The problem of the setting ``output``, if it has one."""
    return [] if output in OUTPUTS else [f"output must be one of {', '.join(OUTPUTS)}, {output!r} was given"]


def joined(
    output: str, result: Float[Tensor, "batch tokens width"], hidden: Float[Tensor, "batch written width"]
) -> Float[Tensor, "batch written width"]:
    """The result in the place of a last hidden state, or added to it; while text is written, of its last positions."""
    result = result[:, result.shape[1] - hidden.shape[1] :].to(hidden.dtype)
    return result if output == "replaced" else hidden + result


def counted_positions(
    backbone: Backbone, batch: Batch, stack: range, hidden: Float[Tensor, "batch tokens _"]
) -> Bool[Tensor, "batch tokens"]:
    """Which positions of a stack's hidden states count.

    Of a decoder behind an encoder all: its targets are padded on the right, where no token that counts sees them. Text
    that has been written behind a batch counts, and so do all positions of feature maps.
    """
    rows, tokens = hidden.shape[:2]
    ones = torch.ones((rows, tokens), dtype=torch.bool, device=hidden.device)
    if stack.start > 0:
        return ones
    keep = backbone.keep(batch)
    if keep.shape[1] == tokens:
        return keep
    if keep.shape[1] < tokens and backbone.is_causal(stack.start):
        return torch.cat([keep, ones[:, keep.shape[1] :]], dim=1)
    return ones
