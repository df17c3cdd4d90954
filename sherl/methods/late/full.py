"""Full tuning of the late blocks: SHERL's fig. 5 with the whole last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sherl.backbones import Backbone
from sherl.methods.late.base import LATE_ROUTES, LatePart, LateRoute
from sherl.methods.late.originals import Originals


@LATE_ROUTES.register("full")
@dataclass(frozen=True, kw_only=True)
class FullRoute(LateRoute):
    """All weights of the late blocks train; their values of before are kept in a temporary file for ``remove()``."""

    name: ClassVar[str] = "full"

    def put_on(self, backbone: Backbone, layers: Sequence[int]) -> LatePart:
        named = {
            f"{backbone.block_path(layer)}.{name}": parameter
            for layer in layers
            for name, parameter in backbone.blocks[layer].named_parameters()
        }
        learnt = {name: parameter for name, parameter in named.items() if name not in backbone.layout.fixed}
        originals = Originals(list(learnt.values()), real=backbone.is_real)
        return LatePart(parameters=learnt, taken_off_by=[originals.put_back])
