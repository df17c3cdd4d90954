"""BitFit: all biases of the backbone train (Ben Zaken et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sherl.methods.added_biases import add_biases
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late.bitfit import is_bias, train_biases
from sherl.methods.settings import flag
from sherl.methods.tuned import Tuned


@METHODS.register("bitfit")
@dataclass(frozen=True, kw_only=True)
class BitFitConfig(MethodConfig):
    """All biases train, those of layer norms and of the embeddings' norm included.

    add_missing: linear layers and norms of the blocks that have no bias get one, zero at the start. T5 has none at all:
        the papers' tables of it train such added ones. Without, a model that has no bias is refused.
    activation_checkpointing: all blocks run again in backward instead of keeping their activations.
    """

    name: ClassVar[str] = "bitfit"
    add_missing: bool = False
    activation_checkpointing: bool = False

    def problems(self) -> list[str]:
        return flag("add_missing", self.add_missing) + flag("activation_checkpointing", self.activation_checkpointing)

    def put_on(self, tuned: Tuned) -> None:
        own = any(is_bias(name) for name, _ in tuned.model.named_parameters())
        if own or not self.add_missing:
            tuned.add("biases", train_biases({"": tuned.model}, tuned.backbone))
        if self.add_missing:
            tuned.add("added", add_biases(tuned.backbone))
        if self.activation_checkpointing:
            tuned.checkpoint_late_blocks()
