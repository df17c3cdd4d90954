"""Biases for layers that have none (T5's), as the tables of LST and SHERL train them under the name of BitFit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone
from sherl.methods.late import LatePart


def add_biases(backbone: Backbone) -> LatePart:
    """A bias, zero at the start, on the output of every linear layer and norm of the blocks that has none of its own.

    The layers stay as they are: hooks add the biases, in place, so that no second output is made. The part is empty where
    every layer has one.
    """
    part = LatePart()
    vectors: dict[str, nn.Parameter] = {}
    for layer, block in enumerate(backbone.blocks):
        for path, module in block.named_modules():
            weight = getattr(module, "weight", None)
            if not isinstance(weight, nn.Parameter) or getattr(module, "bias", None) is not None:
                continue
            if not isinstance(module, nn.Linear) and weight.ndim != 1:  # a table of positions, say
                continue
            bias = nn.Parameter(torch.zeros(weight.shape[0], device=weight.device))
            vectors[f"{backbone.block_path(layer)}.{path}.bias"] = bias
            part.taken_off_by.append(module.register_forward_hook(_with(bias)).remove)
    if vectors:
        # a module's name may hold no dots; the part's names do, as those of biases that were there
        part.module = nn.ParameterDict({name.replace(".", "-"): bias for name, bias in vectors.items()})
        part.parameters.update(vectors)
    return part


def _with(bias: nn.Parameter) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(_module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output.add_(bias.to(output.dtype))

    return hook
