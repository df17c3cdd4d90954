"""SHERL: frozen early layers fused into the input of late ones (the paper's sections 3 and 4.3, appendix D)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from sherl.backbones import Backbone
from sherl.errors import SpecError
from sherl.fusion import Fusion, FusionConfig
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.kept_layers import KeptLayers, as_setting, kept_layers_problem, kept_of
from sherl.methods.late import LatePart, LateRoute, NoRoute, PromptRoute, late_route_from
from sherl.methods.prompting import Prompting
from sherl.methods.settings import flag
from sherl.methods.sherl_route import FinalNorm, Selection, SherlRoute, SourceFusion, final_norm_for
from sherl.methods.tuned import Tuned
from sherl.methods.unregulated import UnregulatedRoute

INSERTIONS = ("single", "multi")
FINAL_NORMS = ("pretrained", "new")


@METHODS.register("sherl")
@dataclass(frozen=True, kw_only=True)
class SherlConfig(MethodConfig):
    """Early features h_0 ... h_s (h_0 the embeddings, h_l the input of block l) are fused in front of block s.

    Of an encoder-decoder (section 3.3) these are the decoder's blocks. Its encoder runs frozen and whole; all of it is
    fused too, with the last block's output as the guide, and the blocks from s on cross-attend to that, the early ones to
    the frozen output.

    reduction_factor, similarity, gate, projection, aggregation, expansion, epsilon: of the fusion
        (:class:`sherl.fusion.FusionConfig`).
    insertion: ``single``: one fusion, in front of block s; the blocks after it run as they are. ``multi`` (fig. 9):
        every block l from s on has a fusion of its own, over h_0 ... h_l. Of a late block the hidden state joins as it
        comes in, that is the output of the block before, not yet fused; it carries gradients.
    start_layer: s, a block (0-based; negative counts from the end, -1 is the paper's standard). At least one block
        must lie before it. Of an encoder-decoder it counts in the decoder.
    regulate: ``False`` takes the late route away (fig. 5): all blocks are shallow, the fusion of h_0 ... h_N with the last
        block's output h_N as the guide goes through the final norm to the head, and no block has a gradient.
        ``start_layer``, ``insertion`` and ``activation_checkpointing`` are then not used. Of an encoder-decoder these
        are the decoder's hidden states: no late block is left to read a fused source.
    kept_layers: the blocks (0-based, of each stack) whose outputs are fused, by list or by rule
        (:data:`sherl.methods.kept_layers.KeptLayers`), beside the embeddings and the guide, which always are; None for
        all. Of the blocks from s on all outputs join, whatever stands here.
    final_norm: ``pretrained``: what was fused goes through the model's own last norm, frozen. ``new``: through a norm that
        starts at one and trains, as in the released code.
    late_route: what else trains in the blocks from s on: its name or ``{"name": ..., **settings}``.
    activation_checkpointing: the blocks from s on run again in backward instead of keeping their activations.

    ``{"name": "sherl", "preset": "released"}`` (or ``paper``) stands for the settings in :data:`PRESETS`; what is given
    beside it goes before them.
    """

    name: ClassVar[str] = "sherl"
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # eqs. 1 to 3 as they are printed, in front of the last block, in the backbone's own last norm
        "paper": {
            "similarity": "inner",
            "gate": "preserving",
            "projection": "refined",
            "aggregation": "mtsa",
            "expansion": "linear",
            "epsilon": 0.0,
            "insertion": "single",
            "start_layer": -1,
            "final_norm": "pretrained",
        },
        "released": {
            "similarity": "learned",
            "gate": "released",
            "projection": "refined",
            "aggregation": "mtsa",
            "expansion": "rectified",
            "epsilon": 1e-6,
            "insertion": "single",
            "start_layer": -1,
            "final_norm": "new",
        },
    }
    """``released`` is the T5 code behind the paper's table 1; which layers it keeps: :data:`RELEASED_LAYERS`."""
    reduction_factor: int = 8
    insertion: str = "single"
    start_layer: int = -1
    late_route: LateRoute = field(default_factory=NoRoute)
    similarity: str = "inner"
    gate: str = "preserving"
    projection: str = "refined"
    aggregation: str = "mtsa"
    expansion: str = "linear"
    epsilon: float = 0.0
    kept_layers: KeptLayers = None
    regulate: bool = True
    final_norm: str = "pretrained"
    activation_checkpointing: bool = False

    @classmethod
    def released(cls, *, kept_layers: Sequence[int] | str | None = None, reduction_factor: int = 8) -> SherlConfig:
        """The design of the released T5 code, behind the paper's table 1; the same as the preset ``released``.

        Its layers are :data:`RELEASED_LAYERS`. What it does otherwise than the equations: see
        :meth:`sherl.fusion.FusionConfig.released`; and the fused paths end in new norms.
        """
        kept = tuple(kept_layers) if isinstance(kept_layers, list) else kept_layers
        return cls.from_preset("released", kept_layers=kept, reduction_factor=reduction_factor)

    def __post_init__(self) -> None:
        found = []
        try:
            object.__setattr__(self, "late_route", late_route_from(self.late_route))
        except SpecError as error:
            found.append(str(error).rstrip("."))
        object.__setattr__(self, "kept_layers", as_setting(self.kept_layers))
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
        found += kept_layers_problem(self.kept_layers) + flag("regulate", self.regulate)
        if self.regulate is False and not isinstance(self.late_route, NoRoute):
            found.append(
                f"regulate false leaves no late block for the late route {self.late_route.name!r}: take late_route none, or "
                "regulate true"
            )
        return found + flag("activation_checkpointing", self.activation_checkpointing)

    def fusion_config(self) -> FusionConfig:
        """The settings of its fusions."""
        return FusionConfig(
            reduction_factor=self.reduction_factor,
            similarity=self.similarity,
            gate=self.gate,
            projection=self.projection,
            aggregation=self.aggregation,
            expansion=self.expansion,
            epsilon=self.epsilon,
        )

    def _kept(self, backbone: Backbone, stack: range) -> tuple[int, ...]:
        """The kept blocks, counted in a stack."""
        last = backbone.last_stack
        return kept_of(self.kept_layers, len(stack), method=self.name, deepest=max(len(last), last.start))

    def first_late_layer(self, backbone: Backbone) -> int:
        stack = backbone.last_stack
        depth = len(stack)
        self._kept(backbone, stack)  # refused before anything is changed
        if not self.regulate:
            return backbone.depth
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
        if self.regulate:
            self._put_on_late_blocks(tuned)
        else:
            self._put_on_the_end(tuned)

    def _put_on_the_end(self, tuned: Tuned) -> None:
        backbone = tuned.backbone
        stack = backbone.last_stack
        end = backbone.depth
        read = Selection(range(stack.start, end + 1), end, self._kept(backbone, stack))
        fusion = Fusion(read.widths(backbone, end), self.fusion_config())
        tuned.add("fusion", _part(nn.ModuleDict({"end": fusion})))
        norms = self._new_norms(backbone, "last")
        if norms:
            tuned.add("norm", _part(nn.ModuleDict(norms)))
        tuned.route = UnregulatedRoute(backbone, fusion, read.places(), norm=norms.get("last"))

    def _put_on_late_blocks(self, tuned: Tuned) -> None:
        backbone, start = tuned.backbone, tuned.first_trainable_layer
        stack = backbone.last_stack
        late = range(start, backbone.depth)
        selection = Selection(stack, start, self._kept(backbone, stack))
        fusions = nn.ModuleDict(
            {
                str(layer - stack.start): Fusion(selection.widths(backbone, layer), self.fusion_config())
                for layer in (late if self.insertion == "multi" else late[:1])
            }
        )
        norms = self._new_norms(backbone, "encoder", "last")
        by_layer = {int(name) + stack.start: fusion for name, fusion in fusions.items()}
        source = None
        if stack.start > 0:
            kept = self._kept(backbone, range(stack.start))
            read = Selection(range(stack.start + 1), stack.start, kept)  # the guide is the last one's output
            fusions["encoder"] = Fusion(read.widths(backbone, stack.start), self.fusion_config())
            norm = norms.get("encoder") or backbone.final_norm_of(backbone.stack_of(0))
            source = SourceFusion(backbone, read, fusions["encoder"], norm)
        tuned.add("fusion", _part(fusions))
        if norms:
            tuned.add("norm", _part(nn.ModuleDict(norms)))
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

    def _new_norms(self, backbone: Backbone, *paths: str) -> dict[str, FinalNorm]:
        """Those of the fused paths ``encoder`` (of an encoder-decoder) and ``last``; empty for pretrained ones.

        Raises:
            UnsupportedBackboneError: there is no norm behind the last block that a new one could replace.
        """
        if self.final_norm == "pretrained":
            return {}
        norms: dict[str, FinalNorm] = {}
        if "encoder" in paths and backbone.last_stack.start > 0:
            norms["encoder"] = final_norm_for(backbone, backbone.stack_of(0))
        norms["last"] = final_norm_for(backbone, backbone.stack_of(backbone.depth - 1))
        return norms


RELEASED_LAYERS = {
    "t5-base": (1, 2, 3, 5, 6, 7, 9, 10, 11),
    "t5-large": (1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 22, 23),
    "t5-3b": (22, 23),
}
"""``kept_layers`` of the paper's three T5 (appendix C)."""


def _part(module: nn.Module) -> LatePart:
    return LatePart(parameters=dict(module.named_parameters()), module=module)
