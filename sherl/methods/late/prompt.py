"""Learned vectors in front of the first late block's input (SHERL, fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from sherl.backbones import Backbone
from sherl.errors import UnsupportedBackboneError
from sherl.fusion.linear import INIT_STD
from sherl.methods.late.base import LATE_ROUTES, LatePart, LateRoute
from sherl.methods.settings import whole_number


class PromptVectors(nn.Module):
    """``vectors`` [num_prompts, width], N(0, 0.01)."""

    def __init__(self, num_prompts: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(num_prompts, width))
        nn.init.normal_(self.vectors, std=INIT_STD)


@LATE_ROUTES.register("prompt")
@dataclass(frozen=True, kw_only=True)
class PromptRoute(LateRoute):
    """num_prompts learned vectors stand in front of what the first late block sees, and are cut off at the end.

    The part holds the vectors; who inserts them, and extends masks and positions, is the method
    (:mod:`sherl.insertion`, :mod:`sherl.backbones.prompts`).
    """

    name: ClassVar[str] = "prompt"
    num_prompts: int = 30

    def problems(self) -> list[str]:
        return whole_number("num_prompts", self.num_prompts)

    def put_on(self, backbone: Backbone, layers: Sequence[int]) -> LatePart:
        if backbone.no_late_prompts is not None:
            raise UnsupportedBackboneError(
                f"Late route prompt: a {backbone.family} model cannot carry prompts in its late blocks, as "
                f"{backbone.no_late_prompts}. Take another late route: lora and adapter fit every family."
            )
        with torch.device(next(backbone.blocks[layers[0]].parameters()).device):
            prompts = PromptVectors(self.num_prompts, backbone.width_of(layers[0]))
        return LatePart(parameters=dict(prompts.named_parameters()), module=prompts)
