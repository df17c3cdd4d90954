"""SHERL: frozen early layers fused into the input of late ones (the paper's sections 3 and 4.3, appendix D)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from sherl.backbones import Backbone
from sherl.errors import SpecError
from sherl.fusion import Fusion, FusionConfig
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late import LatePart, LateRoute, NoRoute, PromptRoute, late_route_from
from sherl.methods.prompting import Prompting
from sherl.methods.settings import flag
from sherl.methods.sherl_route import FinalNorm, Selection, SherlRoute, SourceFusion, final_norm_for
from sherl.methods.tuned import Tuned

INSERTIONS = ("single", "multi")
FINAL_NORMS = ("pretrained", "new")


@METHODS.register("sherl")
@dataclass(frozen=True, kw_only=True)
class SherlConfig(MethodConfig):
    """Early features h_0 ... h_s (h_0 the embeddings, h_l the input of block l) are fused in front of block s.

    Of an encoder-decoder (section 3.3) these are the decoder's blocks. Its encoder runs frozen and whole; all of it is
    fused too, with the last block's output as the guide, and the blocks from s on cross-attend to that, the early ones to
    the frozen output.

    reduction_factor, similarity, gate, expansion, epsilon: of the fusion (:class:`sherl.fusion.FusionConfig`).
    insertion: ``single``: one fusion, in front of block s; the blocks after it run as they are. ``multi`` (fig. 9):
        every block l from s on has a fusion of its own, over h_0 ... h_l. Of a late block the hidden state joins as it
        comes in, that is the output of the block before, not yet fused; it carries gradients.
    start_layer: s, a block (0-based; negative counts from the end, -1 is the paper's standard). At least one block
        must lie before it. Of an encoder-decoder it counts in the decoder.
    kept_layers: the blocks (0-based, of each stack) whose outputs are fused, beside the embeddings and the guide, which
        always are; None for all. Of the blocks from s on all outputs join, whatever stands here.
    final_norm: ``pretrained``: what was fused goes through the model's own last norm, frozen. ``new``: through a norm that
        starts at one and trains, as in the released code.
    late_route: what else trains in the blocks from s on: its name or ``{"name": ..., **settings}``.
    activation_checkpointing: the blocks from s on run again in backward instead of keeping their activations.
    """

    name: ClassVar[str] = "sherl"
    reduction_factor: int = 8
    insertion: str = "single"
    start_layer: int = -1
    late_route: LateRoute = field(default_factory=NoRoute)
    similarity: str = "inner"
    gate: str = "preserving"
    expansion: str = "linear"
    epsilon: float = 0.0
    kept_layers: tuple[int, ...] | None = None
    final_norm: str = "pretrained"
    activation_checkpointing: bool = False

    @classmethod
    def released(cls, *, kept_layers: Sequence[int] | None = None, reduction_factor: int = 8) -> SherlConfig:
        """The design of the released T5 code, behind the paper's table 1.

        Its layers are :data:`RELEASED_LAYERS`. What it does otherwise than the equations: see
        :meth:`sherl.fusion.FusionConfig.released`; and the fused paths end in new norms.
        """
        fusion = FusionConfig.released(reduction_factor)
        return cls(
            reduction_factor=reduction_factor,
            similarity=fusion.similarity,
            gate=fusion.gate,
            expansion=fusion.expansion,
            epsilon=fusion.epsilon,
            kept_layers=None if kept_layers is None else tuple(kept_layers),
            final_norm="new",
        )

    def __post_init__(self) -> None:
        found = []
        try:
            object.__setattr__(self, "late_route", late_route_from(self.late_route))
        except SpecError as error:
            found.append(str(error).rstrip("."))
        if isinstance(self.kept_layers, list):  # as JSON and YAML have it
            object.__setattr__(self, "kept_layers", tuple(self.kept_layers))
        found += self.problems()
        if found:
            raise SpecError(f"Method {self.name}: " + "; ".join(found) + ".")

    def problems(self) -> list[str]:
        found = []
        try:
            self.fusion_config()
        except SpecError as error:
            found.append(str(error).removeprefix("Fusion settings: ").rstrip("."))
        if self.insertion not in INSERTIONS:
            found.append(f"insertion must be one of {', '.join(INSERTIONS)}, {self.insertion!r} was given")
        if not isinstance(self.start_layer, int) or isinstance(self.start_layer, bool):
            found.append(f"start_layer must be a whole number, {self.start_layer!r} was given")
        elif self.start_layer == 0:
            found.append("start_layer must leave at least one block before it; 0 is the first block")
        if self.final_norm not in FINAL_NORMS:
            found.append(f"final_norm must be one of {', '.join(FINAL_NORMS)}, {self.final_norm!r} was given")
        found += _layers_problem(self.kept_layers)
        return found + flag("activation_checkpointing", self.activation_checkpointing)

    def fusion_config(self) -> FusionConfig:
        """The settings of its fusions."""
        return FusionConfig(
            reduction_factor=self.reduction_factor,
            similarity=self.similarity,
            gate=self.gate,
            expansion=self.expansion,
            epsilon=self.epsilon,
        )

    def first_late_layer(self, backbone: Backbone) -> int:
        stack = backbone.last_stack
        depth = len(stack)
        deepest = max(depth, stack.start)
        if self.kept_layers is not None and max(self.kept_layers, default=0) >= deepest:
            raise SpecError(
                f"Method sherl: kept_layers {list(self.kept_layers)} has a block that the backbone does not have: allowed "
                f"are 0 to {deepest - 1}."
            )
        start = self.start_layer if self.start_layer > 0 else depth + self.start_layer
        if 1 <= start < depth:
            return stack.start + start
        what = "backbone" if stack.start == 0 else "decoder"
        if depth == 1:
            raise SpecError(f"Method sherl: the {what} has one block, so none lies before the start layer.")
        raise SpecError(
            f"Method sherl: start_layer {self.start_layer} is not in a {what} of {depth} blocks with at least one "
            f"before it: allowed are 1 to {depth - 1}, or {1 - depth} to -1 counted from the end."
        )

    def put_on(self, tuned: Tuned) -> None:
        backbone, start = tuned.backbone, tuned.first_trainable_layer
        stack = backbone.last_stack
        late = range(start, backbone.depth)
        selection = Selection(stack, start, self.kept_layers)
        fusions = nn.ModuleDict(
            {
                str(layer - stack.start): Fusion(selection.widths(backbone, layer), self.fusion_config())
                for layer in (late if self.insertion == "multi" else late[:1])
            }
        )
        norms = self._new_norms(backbone)
        by_layer = {int(name) + stack.start: fusion for name, fusion in fusions.items()}
        source = None
        if stack.start > 0:
            read = Selection(
                range(stack.start + 1), stack.start, self.kept_layers
            )  # the guide is the last one's output
            fusions["encoder"] = Fusion(read.widths(backbone, stack.start), self.fusion_config())
            norm = norms.get("encoder") or backbone.final_norm_of(backbone.stack_of(0))
            source = SourceFusion(backbone, read, fusions["encoder"], norm)
        tuned.add("fusion", LatePart(parameters=dict(fusions.named_parameters()), module=fusions))
        if norms:
            added = nn.ModuleDict(norms)
            tuned.add("norm", LatePart(parameters=dict(added.named_parameters()), module=added))
        late_part = self.late_route.put_on(backbone, late)
        tuned.add("late", late_part)
        prompting = None
        if isinstance(self.late_route, PromptRoute):
            assert late_part.module is not None
            prompting = Prompting(backbone, late_part.module.get_parameter("vectors"), first_layer=start)
        if self.activation_checkpointing:
            tuned.checkpoint_late_blocks()
        tuned.route = SherlRoute(
            backbone, by_layer, selection, source=source, norm=norms.get("last"), prompting=prompting
        )

    def _new_norms(self, backbone: Backbone) -> dict[str, FinalNorm]:
        """Those of the fused paths, by ``encoder`` (of an encoder-decoder) and ``last``; empty for pretrained ones.

        Raises:
            UnsupportedBackboneError: there is no norm behind the last block that a new one could replace.
        """
        if self.final_norm == "pretrained":
            return {}
        norms: dict[str, FinalNorm] = {}
        if backbone.last_stack.start > 0:
            norms["encoder"] = final_norm_for(backbone, backbone.stack_of(0))
        norms["last"] = final_norm_for(backbone, backbone.stack_of(backbone.depth - 1))
        return norms


RELEASED_LAYERS = {
    "t5-base": (1, 2, 3, 5, 6, 7, 9, 10, 11),
    "t5-large": (1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 22, 23),
    "t5-3b": (22, 23),
}
"""``kept_layers`` of the paper's three T5 (appendix C)."""


def _layers_problem(layers: object) -> list[str]:
    if layers is None:
        return []
    whole = isinstance(layers, tuple) and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in layers)
    if whole and isinstance(layers, tuple) and len(set(layers)) == len(layers):
        return []
    return [f"kept_layers must be different whole numbers of at least 0, or absent for all; {layers!r} was given"]
