"""SHERL: frozen early layers fused into the input of late ones (the paper's sections 3 and 4.3, appendix D)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from sherl.backbones import Backbone, Batch
from sherl.errors import SpecError
from sherl.fusion import Fusion, FusionConfig
from sherl.insertion import BlockCall, block_calls
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late import LatePart, LateRoute, NoRoute, PromptRoute, late_route_from
from sherl.methods.prompting import Prompting
from sherl.methods.settings import flag
from sherl.methods.tuned import Route, Tuned

INSERTIONS = ("single", "multi")


@METHODS.register("sherl")
@dataclass(frozen=True, kw_only=True)
class SherlConfig(MethodConfig):
    """Early features h_0 ... h_s (h_0 the embeddings, h_l the input of block l) are fused in front of block s.

    reduction_factor, similarity, gate: of the fusion (:class:`sherl.fusion.FusionConfig`).
    insertion: ``single``: one fusion, in front of block s; the blocks after it run as they are. ``multi`` (fig. 9):
        every block l from s on has a fusion of its own, over h_0 ... h_l. Of a late block the hidden state joins as it
        comes in, that is the output of the block before, not yet fused; it carries gradients.
    start_layer: s, a block (0-based; negative counts from the end, -1 is the paper's standard). At least one block
        must lie before it.
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
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        found = []
        try:
            object.__setattr__(self, "late_route", late_route_from(self.late_route))
        except SpecError as error:
            found.append(str(error).rstrip("."))
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
        return found + flag("activation_checkpointing", self.activation_checkpointing)

    def fusion_config(self) -> FusionConfig:
        """The settings of its fusions."""
        return FusionConfig(reduction_factor=self.reduction_factor, similarity=self.similarity, gate=self.gate)

    def first_late_layer(self, backbone: Backbone) -> int:
        depth = backbone.depth
        start = self.start_layer if self.start_layer > 0 else depth + self.start_layer
        if 1 <= start < depth:
            return start
        if depth == 1:
            raise SpecError("Method sherl: the backbone has one block, so none lies before the start layer.")
        raise SpecError(
            f"Method sherl: start_layer {self.start_layer} is not in a backbone of {depth} blocks with at least one "
            f"before it: allowed are 1 to {depth - 1}, or {1 - depth} to -1 counted from the end."
        )

    def put_on(self, tuned: Tuned) -> None:
        backbone, start = tuned.backbone, tuned.first_trainable_layer
        late = range(start, backbone.depth)
        fused = late if self.insertion == "multi" else late[:1]
        fusions = nn.ModuleDict(
            {str(layer): Fusion(backbone.width, layer + 1, self.fusion_config()) for layer in fused}
        )
        tuned.add("fusion", LatePart(parameters=dict(fusions.named_parameters()), module=fusions))
        late_part = self.late_route.put_on(backbone, late)
        tuned.add("late", late_part)
        prompting = None
        if isinstance(self.late_route, PromptRoute):
            assert late_part.module is not None
            prompting = Prompting(backbone, late_part.module.get_parameter("vectors"), first_layer=start)
        if self.activation_checkpointing:
            tuned.checkpoint_late_blocks()
        tuned.route = SherlRoute(backbone, {int(name): fusion for name, fusion in fusions.items()}, prompting)


class SherlRoute(Route):
    """Records the inputs of early blocks and replaces those of late ones."""

    def __init__(self, backbone: Backbone, fusions: dict[int, nn.Module], prompting: Prompting | None) -> None:
        self.fusions = fusions
        self.prompting = prompting
        last = max(fusions)
        self.last_fused = last
        seen = range(last + 1) if prompting is None else range(backbone.depth)
        self.blocks = {layer: backbone.blocks[layer] for layer in seen}

    @contextmanager
    def run(self, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
        features: list[Tensor] = []
        prompted = None if self.prompting is None else self.prompting.begin(batch)

        def on_call(layer: int, call: BlockCall) -> None:
            prompts, hidden = (None, call.hidden) if prompted is None else prompted.split(layer, call.hidden)
            if layer <= self.last_fused:
                features.append(hidden)
            if layer in self.fusions:
                hidden = self.fusions[layer](features)
            if layer == self.last_fused:
                features.clear()  # what backward needs, the graph holds; the rest can go before the block runs
            if prompted is None:
                call.hidden = hidden
            else:
                prompted.join(layer, call, prompts, hidden)

        try:
            with block_calls(self.blocks, on_call):
                yield (lambda last: last) if prompted is None else prompted.cut
        finally:
            features.clear()
