"""Full fine-tuning: every weight of the backbone trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late import LatePart
from sherl.methods.late.originals import Originals
from sherl.methods.settings import flag
from sherl.methods.tuned import Tuned


@METHODS.register("full")
@dataclass(frozen=True, kw_only=True)
class FullConfig(MethodConfig):
    """Every weight of the backbone trains, and its dropout acts everywhere.

    activation_checkpointing: all blocks run again in backward instead of keeping their activations.

    ``remove()`` puts the weights of before back. No copy of them is held in memory until then: it would count in every
    figure of what full fine-tuning costs.
    """

    name: ClassVar[str] = "full"
    activation_checkpointing: bool = False

    def problems(self) -> list[str]:
        return flag("activation_checkpointing", self.activation_checkpointing)

    def put_on(self, tuned: Tuned) -> None:
        fixed = tuned.backbone.layout.fixed
        learnt = {name: parameter for name, parameter in tuned.model.named_parameters() if name not in fixed}
        part = LatePart(parameters=learnt)
        part.taken_off_by.append(Originals(list(tuned.model.parameters()), real=tuned.backbone.is_real).put_back)
        tuned.add("model", part)
        if self.activation_checkpointing:
            tuned.checkpoint_late_blocks()
