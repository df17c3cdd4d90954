"""Bottleneck adapters in all blocks (Houlsby et al., 2019; Pfeiffer et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late.adapter import adapters_on
from sherl.methods.settings import flag, whole_number
from sherl.methods.tuned import Tuned

PLACEMENTS: dict[str, Literal["none", "self", "all"]] = {
    "feed_forward": "none",
    "self_attention_and_feed_forward": "self",
    "attention_and_feed_forward": "all",
}
"""Behind which attentions adapters stand beside the feed-forward part."""


@METHODS.register("adapter")
@dataclass(frozen=True, kw_only=True)
class AdapterConfig(MethodConfig):
    """x + up(gelu(down(x))) in every block of every stack; weights N(0, 0.01), zero biases.

    inner_width: between down- and up-projection; 48 in SHERL's table 1.
    placement: ``feed_forward``: one a block, on the output of its feed-forward part (Pfeiffer);
        ``attention_and_feed_forward``: on the output of each attention too (Houlsby; a decoder's block that cross-attends
        has three); ``self_attention_and_feed_forward``: not on the cross-attention's (SHERL's table 1).
    activation_checkpointing: all blocks run again in backward instead of keeping their activations.
    """

    name: ClassVar[str] = "adapter"
    inner_width: int = 48
    placement: str = "feed_forward"
    activation_checkpointing: bool = False

    def problems(self) -> list[str]:
        found = whole_number("inner_width", self.inner_width)
        if self.placement not in PLACEMENTS:
            found.append(f"placement must be one of {', '.join(PLACEMENTS)}, {self.placement!r} was given")
        return found + flag("activation_checkpointing", self.activation_checkpointing)

    def put_on(self, tuned: Tuned) -> None:
        backbone = tuned.backbone
        part = adapters_on(
            backbone,
            range(backbone.depth),
            inner_width=self.inner_width,
            attentions=PLACEMENTS[self.placement],
        )
        tuned.add("adapter", part)
        if self.activation_checkpointing:
            tuned.checkpoint_late_blocks()
