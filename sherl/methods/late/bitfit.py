"""BitFit: the biases of blocks are trained, the weights stay (Ben Zaken et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sherl.backbones import Backbone
from sherl.errors import UnsupportedBackboneError
from sherl.methods.late.base import LATE_ROUTES, LatePart, LateRoute


@LATE_ROUTES.register("bitfit")
@dataclass(frozen=True, kw_only=True)
class BitFitRoute(LateRoute):
    """All biases of the late blocks train, those of their layer norms included."""

    name: ClassVar[str] = "bitfit"

    def put_on(self, backbone: Backbone, layers: Sequence[int]) -> LatePart:
        named = {backbone.block_path(layer): backbone.blocks[layer] for layer in layers}
        return train_biases(named, backbone)


def train_biases(modules: dict[str, nn.Module], backbone: Backbone) -> LatePart:
    """Let the biases inside these modules (by their names in the backbone's model) train.

    Their values are kept aside, so that the part gives them back when it is removed.

    Raises:
        UnsupportedBackboneError: there is no bias; nothing has been changed then.
    """
    biases = {
        f"{path}.{name}" if path else name: parameter
        for path, module in modules.items()
        for name, parameter in module.named_parameters()
        if is_bias(name)
    }
    if not biases:
        raise UnsupportedBackboneError(
            f"BitFit trains biases, and these layers of a {backbone.family} model have none. "
            "Take LoRA or an adapter, which fit every family; the method bitfit can also add biases (add_missing)."
        )
    kept = [(bias, bias.detach().clone(), bias.requires_grad) for bias in biases.values()]
    for bias in biases.values():
        bias.requires_grad_(True)

    def give_back() -> None:
        with torch.no_grad():
            for bias, values, required_grad in kept:
                bias.copy_(values)
                bias.requires_grad_(required_grad)
                bias.grad = None

    return LatePart(parameters=biases, taken_off_by=[give_back])


def is_bias(name: str) -> bool:
    """Whether a parameter of this name is a bias (``relative_attention_bias.weight`` is a table, not one)."""
    last = name.rpartition(".")[2]
    return last == "bias" or last.endswith("_bias")
