"""A bottleneck adapter in the late blocks, of the project's own (peft has none)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sherl.backbones import Backbone
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.fusion.linear import AddedLinear
from sherl.methods.late.base import LATE_ROUTES, LatePart, LateRoute
from sherl.methods.settings import whole_number
from sherl.shapes import Float


class Bottleneck(nn.Module):
    """x + up(gelu(down(x))); weights N(0, 0.01), zero biases: nearly the identity at the start."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.down = AddedLinear(width, inner_width)
        self.up = AddedLinear(inner_width, width)

    def forward(self, hidden: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        adapted: Tensor = hidden + self.up(functional.gelu(self.down(hidden)))
        return adapted


@LATE_ROUTES.register("adapter")
@dataclass(frozen=True, kw_only=True)
class AdapterRoute(LateRoute):
    """One adapter a block, on the output of its feed-forward part before the residual sum (Pfeiffer et al., 2021).

    Houlsby et al. (2019) put a second one behind the attention; Pfeiffer's place is the better of the two for the
    same number of parameters, and every family has a last feed-forward layer to put it on.
    reduction_factor: the inner width is ``max(1, width // reduction_factor)``; 16 in SHERL's fig. 5.
    """

    name: ClassVar[str] = "adapter"
    reduction_factor: int = 16

    def problems(self) -> list[str]:
        return whole_number("reduction_factor", self.reduction_factor)

    def put_on(self, backbone: Backbone, layers: Sequence[int]) -> LatePart:
        width = max(backbone.width_of(layer) for layer in layers)
        if self.reduction_factor > width:
            raise SpecError(
                f"Late route adapter: reduction_factor {self.reduction_factor} is over the backbone's width: "
                f"allowed are 1 to {width}."
            )
        return adapters_on(backbone, layers, inner_width=lambda width: max(1, width // self.reduction_factor))


def adapters_on(
    backbone: Backbone,
    layers: Sequence[int],
    *,
    inner_width: int | Callable[[int], int],
    attentions: Literal["none", "self", "all"] = "none",
) -> LatePart:
    """Adapters on the output of these blocks' feed-forward parts, before the residual sum, and on that of no attention, of
    the self-attention or of all. On feature maps they act on the channels of each position.

    inner_width: the same for all, or what follows from the width of the output that one acts on.

    Raises:
        UnsupportedBackboneError: the family's row does not say where attentions end.
    """
    adapters = nn.ModuleDict()
    part = LatePart(module=adapters, layers=tuple(layers))
    for layer in layers:
        stack = backbone.stack_of(layer)
        if attentions != "none" and not stack.attention_outputs:
            raise UnsupportedBackboneError(
                f"Adapters cannot stand behind the attention of a {backbone.family} model: its row names no "
                "attention_outputs. Put them behind the feed-forward part alone."
            )
        ends = backbone.modules_of(layer, stack.feed_forward_output)
        places = {str(layer) if len(ends) == 1 else f"{layer}_{index}": path for index, path in enumerate(ends)}
        wanted = {"none": 0, "self": 1, "all": None}[attentions]  # the self-attention's stands first in a row
        places |= {f"{layer}_attention_{index}": path for index, path in enumerate(stack.attention_outputs[:wanted])}
        for name, path in places.items():
            output = backbone.blocks[layer].get_submodule(path)
            width = _output_width(output, backbone.width_of(layer))
            inner = inner_width if isinstance(inner_width, int) else inner_width(width)
            with torch.device(next(output.parameters()).device):
                adapter = Bottleneck(width, inner)
            adapters[name] = adapter
            part.taken_off_by.append(output.register_forward_hook(_adapted_by(adapter)).remove)
    part.parameters.update(adapters.named_parameters())
    return part


def _output_width(module: nn.Module, usual: int) -> int:
    """Width (channels, of a map) of what a module gives; ``usual`` where the module does not say."""
    if isinstance(module, nn.BatchNorm2d):
        return module.num_features
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    return module.out_features if isinstance(module, nn.Linear) else usual


def _adapted_by(adapter: Bottleneck) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    """A forward hook that replaces a module's output by the adapted one."""

    def hook(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if isinstance(module, nn.BatchNorm2d | nn.Conv2d):  # their output is a map, its channels are dimension 1
            of_map: Tensor = adapter(output.flatten(2).transpose(1, 2))
            return of_map.transpose(1, 2).reshape(output.shape)
        adapted: Tensor = adapter(output)
        return adapted

    return hook
