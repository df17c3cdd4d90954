"""Which dtype pretrained weights are loaded in for a precision (:mod:`sherl.training` says what a precision means)."""

from __future__ import annotations

import torch
from torch import nn

from sherl.errors import SpecError
from sherl.spec import Precision

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
"""What weights may be loaded in; float64 belongs to no precision, and is there to check computations with."""


def weights_dtype(precision: Precision) -> torch.dtype:
    """The dtype that a backbone is to be loaded in."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def require_loadable(dtype: object) -> None:
    """Raises where weights are asked for in a dtype that nothing here is made for.

    Raises:
        SpecError: the dtype is none of :data:`DTYPES`.
    """
    if dtype not in DTYPES:
        raise SpecError(
            f"A backbone cannot be loaded in {dtype}: allowed are torch.float32 (precision fp32), torch.bfloat16 (bf16) and, to "
            "check computations with, torch.float64. In float16 masks and gradients go out of range, and losses are not scaled "
            "here: take torch.bfloat16, which costs the same memory."
        )


def precision_of(pretrained: nn.Module) -> Precision:
    """The precision that a backbone's model was loaded in, by the dtype that most of its numbers have."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in pretrained.parameters():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return "bf16" if max(sizes, key=sizes.__getitem__, default=torch.float32) is torch.bfloat16 else "fp32"
