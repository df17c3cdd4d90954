"""BitFit: all biases of the backbone train (Ben Zaken et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late.bitfit import train_biases
from sherl.methods.settings import flag
from sherl.methods.tuned import Tuned


@METHODS.register("bitfit")
@dataclass(frozen=True, kw_only=True)
class BitFitConfig(MethodConfig):
    """All biases train, those of layer norms and of the embeddings' norm included.

    activation_checkpointing: all blocks run again in backward instead of keeping their activations.
    """

    name: ClassVar[str] = "bitfit"
    activation_checkpointing: bool = False

    def problems(self) -> list[str]:
        return flag("activation_checkpointing", self.activation_checkpointing)

    def put_on(self, tuned: Tuned) -> None:
        tuned.add("biases", train_biases({"": tuned.model}, tuned.backbone))
        if self.activation_checkpointing:
            tuned.checkpoint_late_blocks()
