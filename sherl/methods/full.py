"""Full fine-tuning: every weight of the backbone trains."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import ClassVar

from sherl.backbones import Backbone
from sherl.errors import SherlError
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late import LatePart
from sherl.methods.settings import flag
from sherl.methods.tuned import Tuned
from sherl.snapshot import Snapshot


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
        part.taken_off_by.append(_Originals(tuned.backbone).put_back)
        tuned.add("model", part)
        if self.activation_checkpointing:
            tuned.checkpoint_late_blocks()


class _Originals:
    """The backbone's weights as they are now, kept in a temporary file; tensors without values have none to keep."""

    def __init__(self, backbone: Backbone) -> None:
        self._snapshot: Snapshot | None = None
        self._failure: OSError | None = None
        if not backbone.is_real:
            return
        try:
            self._snapshot = Snapshot(list(backbone.model.parameters()))
        except OSError as error:
            # No reason to refuse training: most models are trained, saved and never given back.
            self._failure = error
        else:
            weakref.finalize(self, self._snapshot.close)

    def put_back(self) -> None:
        if self._failure is not None:
            raise SherlError(
                f"The weights from before full fine-tuning could not be kept ({self._failure}), so this backbone "
                "stays as it was trained: load it once more. To keep them, let TMPDIR name a folder with room."
            )
        if self._snapshot is not None:
            self._snapshot.put_back()
            self._snapshot.close()
            self._snapshot = None
