"""Which dtype pretrained weights are loaded in for a precision (:mod:`sherl.training` says what a precision means)."""

from __future__ import annotations

import torch
from torch import nn

from sherl.spec import Precision


def weights_dtype(precision: Precision) -> torch.dtype:
    """The dtype that a backbone is to be loaded in."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def precision_of(pretrained: nn.Module) -> Precision:
    """The precision that a backbone's model was loaded in, by the dtype that most of its numbers have."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in pretrained.parameters():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return "bf16" if max(sizes, key=sizes.__getitem__, default=torch.float32) is torch.bfloat16 else "fp32"
