"""Linear probe: the backbone is frozen, the head alone trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sherl.backbones import Backbone
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.tuned import Tuned


@METHODS.register("linear_probe")
@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig(MethodConfig):
    """The whole backbone runs in evaluation mode under no_grad; nothing of it is kept for backward."""

    name: ClassVar[str] = "linear_probe"

    def first_late_layer(self, backbone: Backbone) -> int:
        return backbone.depth

    def put_on(self, tuned: Tuned) -> None:
        """Nothing in the backbone trains."""
