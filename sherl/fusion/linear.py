"""Linear layers of added modules: initialised as in the released code, computed in the features' precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sherl.shapes import Float

INIT_STD = 0.01


class AddedLinear(nn.Linear):
    """A linear layer of an added module: weights N(0, 0.01), zero bias.

    Its parameters stay float32, where a small step of the optimizer is not rounded away; a bfloat16 input is computed
    in bfloat16 with weights cast for the occasion, so no float32 copy of a wide feature is made or kept.
    """

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INIT_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "*lead inputs"]) -> Float[Tensor, "*lead outputs"]:  # torch's name
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return functional.linear(input, self.weight.to(input.dtype), bias)


class StackedLinear(nn.Module):
    """n unshared linear layers over n stacked inputs, as one batched product.

    ``weight`` is [n, inputs, outputs] (eq. 1 multiplies from the right). ``bias`` is flat, [n * outputs]: a vector, so
    that an optimizer that spares vectors from weight decay spares it. Precision and initial values as in
    :class:`AddedLinear`.
    """

    def __init__(self, num_layers: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_layers, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(num_layers * outputs))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INIT_STD)
        nn.init.zeros_(self.bias)

    def forward(self, input: Float[Tensor, "layers rows inputs"]) -> Float[Tensor, "layers rows outputs"]:
        bias = self.bias.to(input.dtype).view(len(self.weight), 1, -1)
        return torch.baddbmm(bias, input, self.weight.to(input.dtype))
