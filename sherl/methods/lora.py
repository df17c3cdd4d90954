"""LoRA on the attention of all blocks (Hu et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late.lora import lora_on
from sherl.methods.settings import flag, positive_number, whole_number
from sherl.methods.tuned import Tuned


@METHODS.register("lora")
@dataclass(frozen=True, kw_only=True)
class LoraConfig(MethodConfig):
    """LoRA on the attention layers that the family's row names, in every block.

    rank: of the added product; alpha: the product is scaled by alpha / rank.
    activation_checkpointing: all blocks run again in backward instead of keeping their activations.
    """

    name: ClassVar[str] = "lora"
    rank: int = 8
    alpha: float = 16
    activation_checkpointing: bool = False

    def problems(self) -> list[str]:
        return [
            *whole_number("rank", self.rank),
            *positive_number("alpha", self.alpha),
            *flag("activation_checkpointing", self.activation_checkpointing),
        ]

    def put_on(self, tuned: Tuned) -> None:
        layers = range(tuned.backbone.depth)
        tuned.add("lora", lora_on(tuned.backbone, layers, rank=self.rank, alpha=self.alpha))
        if self.activation_checkpointing:
            tuned.checkpoint_late_blocks()
