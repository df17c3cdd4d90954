"""LoRA on the attention of the late blocks (Hu et al., 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sherl.backbones import Backbone
from sherl.errors import UnsupportedBackboneError
from sherl.methods._peft import inject_lora
from sherl.methods.late.base import LATE_ROUTES, LatePart, LateRoute
from sherl.methods.settings import positive_number, whole_number


@LATE_ROUTES.register("lora")
@dataclass(frozen=True, kw_only=True)
class LoraRoute(LateRoute):
    """LoRA on the attention layers that the family's row names.

    rank: of the added product; alpha: the product is scaled by alpha / rank.
    """

    name: ClassVar[str] = "lora"
    rank: int = 8
    alpha: float = 16

    def problems(self) -> list[str]:
        return whole_number("rank", self.rank) + positive_number("alpha", self.alpha)

    def put_on(self, backbone: Backbone, layers: Sequence[int]) -> LatePart:
        return lora_on(backbone, layers, rank=self.rank, alpha=self.alpha)


def lora_on(backbone: Backbone, layers: Sequence[int], *, rank: int, alpha: float) -> LatePart:
    """LoRA on the layers of these blocks that the family's row names: of attentions, or convolutions.

    Raises:
        UnsupportedBackboneError: a layer that the family's row names is not there.
    """
    names = [
        f"{backbone.block_path(layer)}.{path}"
        for layer in layers
        for target in backbone.stack_of(layer).lora_targets
        for path in backbone.modules_of(layer, target)
    ]
    if not names:
        raise UnsupportedBackboneError(
            f"LoRA cannot be put on these layers of a {backbone.family} model: its row's lora_targets "
            f"({', '.join(backbone.stack_of(layers[0]).lora_targets) or 'none'}) name nothing in them."
        )
    injected = inject_lora(backbone.model, names, rank=rank, alpha=alpha)
    return LatePart(parameters=injected.parameters, taken_off_by=[injected.remove])
