"""Ladder side tuning: a narrow copy of the backbone beside it, fed by its hidden states (Sung et al., LST, NeurIPS 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone, Batch
from sherl.errors import SpecError
from sherl.insertion import BlockCall, block_calls
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.kept_layers import KeptLayers, as_setting, kept_layers_problem, kept_of
from sherl.methods.late import LatePart
from sherl.methods.pruning import magnitudes, prune_into
from sherl.methods.recording import OnState, hidden_states, stack_names, stacks_of, width_at
from sherl.methods.settings import whole_number
from sherl.methods.side import SideLinear, joined, output_problem
from sherl.methods.side_network import side_batch, side_network, side_parameters
from sherl.methods.tuned import Route, Tuned
from sherl.shapes import Float

INITIALISATIONS = ("magnitude", "fisher", "random")
TEMPERATURE = 0.1


@METHODS.register("ladder")
@dataclass(frozen=True, kw_only=True)
class LadderConfig(MethodConfig):
    """A side network of the backbone's own blocks, all widths divided by r, that the backbone's hidden states climb into.

    Its first block's input is s = down_0(h_0). In front of the side block of block i

        s = g s + (1 - g) down_i(output of block i),   g = sigmoid(alpha_i / 0.1),  alpha_i = 0 at the start

    and behind its own last norm one up-projection brings s to the backbone's width; that takes the place of the last hidden
    state and goes to the pooling or the pretrained language head as it is. No block of the backbone has a graph. Of an
    encoder-decoder the side decoder cross-attends to the side encoder, and the decoder's result alone is brought up. Where
    blocks differ in width (stages), side block i reads block i's input, of its own resolution.

    reduction_factor: r. kept_layers: the blocks (0-based, of each stack) that have a side block, by list or by rule
        (:data:`sherl.methods.kept_layers.KeptLayers`); None for all. The paper's T5-base has ``drop:0,4,8``. There is
        an alpha for every block, as in the released code; those of dropped ones stay 0.
    initialisation: of the side blocks. ``magnitude``: structured pruning of the backbone's weights by their size;
        ``fisher``: by importances that :func:`sherl.fisher.fisher_importance` has measured and that lie in
        ``backbone.importances``; ``random``: the architecture's own, which all have where blocks differ in width.
    output: ``replaced`` as published; ``added``: to the last hidden state.
    """

    name: ClassVar[str] = "ladder"
    reduction_factor: int = 8
    kept_layers: KeptLayers = None
    initialisation: str = "magnitude"
    output: str = "replaced"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept_layers", as_setting(self.kept_layers))
        super().__post_init__()

    def problems(self) -> list[str]:
        found = whole_number("reduction_factor", self.reduction_factor)
        if self.initialisation not in INITIALISATIONS:
            found.append(
                f"initialisation must be one of {', '.join(INITIALISATIONS)}, {self.initialisation!r} was given"
            )
        return found + kept_layers_problem(self.kept_layers) + output_problem(self.output)

    def loadable(self) -> LadderConfig:
        """Without initial values that would have to be measured."""
        return dataclasses.replace(self, initialisation="random")

    @property
    def starts_from_weights(self) -> bool:
        """Whether the side blocks are pruned out of the backbone's own."""
        return self.initialisation != "random"

    def first_late_layer(self, backbone: Backbone) -> int:
        if self.reduction_factor > backbone.hidden_width:
            raise SpecError(
                f"Method ladder: reduction_factor {self.reduction_factor} is over the backbone's width: allowed are 1 to "
                f"{backbone.hidden_width}."
            )
        if self.initialisation == "fisher" and backbone.importances is None and backbone.is_real:
            raise SpecError(
                "Method ladder: initialisation 'fisher' needs importances of the backbone's weights, which gradients of some "
                "batches give: backbone.importances = sherl.fisher.fisher_importance(backbone, task, batches). Or take "
                "initialisation 'magnitude', which needs none."
            )
        if self.starts_from_weights and backbone.without is not None:
            raise SpecError(
                f"Method ladder: initialisation {self.initialisation!r} is made of the weights of all blocks, and this backbone "
                "was loaded without the early ones: load it whole, or take initialisation 'random'."
            )
        for stack in stacks_of(backbone):
            if not self._kept(backbone, stack):
                raise SpecError(f"Method ladder: kept_layers {self.kept_layers!r} leaves a stack no side block.")
        return backbone.depth

    def _kept(self, backbone: Backbone, stack: range) -> tuple[int, ...]:
        deepest = max(len(one) for one in stacks_of(backbone))
        return kept_of(self.kept_layers, len(stack), method=self.name, deepest=deepest)

    def put_on(self, tuned: Tuned) -> None:
        backbone = tuned.backbone
        stacks = stacks_of(backbone)
        kept = [self._kept(backbone, stack) for stack in stacks]
        side = side_network(backbone, self.reduction_factor, kept)
        if self.initialisation != "random" and backbone.is_real:
            measured = backbone.importances if self.initialisation == "fisher" else None
            prune_into(side, backbone, kept, magnitudes(backbone) if measured is None else measured)
        rungs = nn.ModuleList(
            Rungs(backbone, side, stack, layers, first=sum(map(len, kept[:index])))
            for index, (stack, layers) in enumerate(zip(stacks, kept, strict=True))
        )
        up = SideLinear(side.hidden_width, backbone.hidden_width)
        module = nn.ModuleDict({"side": side.model, "rungs": rungs, "up": up})
        parameters = {f"side.{name}": parameter for name, parameter in side_parameters(side).items()}
        for name in ("rungs", "up"):
            parameters |= {f"{name}.{path}": parameter for path, parameter in module[name].named_parameters()}
        tuned.add("ladder", LatePart(parameters=parameters, module=module))
        tuned.route = LadderRoute(backbone, side, rungs, up, output=self.output)


class Rungs(nn.Module):
    """Between one stack and its side blocks: down-projections of hidden states, and gates.

    reads: which h_n are projected. mixed: for each side block, the n that is mixed in (None: nothing is).
    first: the stack's first side block, counted over the whole side network.
    """

    def __init__(self, backbone: Backbone, side: Backbone, stack: range, kept: Sequence[int], *, first: int) -> None:
        super().__init__()
        self.stack = stack
        self.kept = tuple(kept)
        self.first = first
        own_input = backbone.has_stages
        self.mixed = [(layer or None) if own_input else layer + 1 for layer in kept]
        self.reads = [0, *(n for n in self.mixed if n is not None)]
        narrow = [side.width_of(first), *(side.width_of(first + j) for j, n in enumerate(self.mixed) if n is not None)]
        self.down = nn.ModuleList(
            SideLinear(width_at(backbone, stack, n), width) for n, width in zip(self.reads, narrow, strict=True)
        )
        self.alpha = nn.Parameter(torch.zeros(len(stack)))

    def project(self, n: int, hidden: Float[Tensor, "batch tokens _"]) -> Float[Tensor, "batch tokens narrow"]:
        """down(h_n)."""
        projected: Tensor = self.down[self.reads.index(n)](hidden)
        return projected

    def mix(self, place: int, own: Tensor, features: dict[int, Tensor]) -> Tensor:
        """What side block ``place`` of the stack gets, when ``own`` came out of the one before."""
        own = features[0] if place == 0 else own
        n = self.mixed[place]
        if n is None:
            return own
        gate = torch.sigmoid(self.alpha[self.kept[place]] / TEMPERATURE).to(own.dtype)
        return gate * own + (1 - gate) * features[n]


class LadderRoute(Route):
    """Projects hidden states as they come by, and runs the side network behind the pass, with its own hooks for the rungs.

    The side network sees all tokens at once; a key/value cache would show it the newest alone.
    """

    works_with_cache = False

    def __init__(self, backbone: Backbone, side: Backbone, rungs: nn.ModuleList, up: nn.Module, *, output: str) -> None:
        self.backbone = backbone
        self.side = side
        self.rungs: list[Rungs] = [rung for rung in rungs if isinstance(rung, Rungs)]
        self.up = up
        self.output = output

    def reads(self) -> dict[str, tuple[int, ...]]:
        names = stack_names(self.backbone)
        return {name: tuple(sorted(rungs.reads)) for name, rungs in zip(names, self.rungs, strict=True)}

    def keeps(self) -> list[str]:
        return [f"of the side network: the activations of its {self.side.depth} blocks, {self.side.hidden_width} wide"]

    @contextmanager
    def run(self, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
        recorded: list[dict[int, Tensor]] = [{} for _ in self.rungs]

        def recorder(rungs: Rungs, features: dict[int, Tensor]) -> OnState:
            def on_state(n: int, hidden: Tensor) -> None:
                if n == 0:  # the pass before, of text that is being written, is over
                    features.clear()
                with torch.set_grad_enabled(self.forms_graph):
                    features[n] = rungs.project(n, self.backbone.as_tokens(hidden, hidden))

            return on_state

        def finish(last: Tensor) -> Tensor:
            with torch.set_grad_enabled(self.forms_graph):
                narrow = self._run_side(batch, recorded)
                return joined(self.output, self.up(narrow), last)

        try:
            with ExitStack() as hooks:
                for rungs, features in zip(self.rungs, recorded, strict=True):
                    on_state = recorder(rungs, features)
                    hooks.enter_context(hidden_states(self.backbone, rungs.stack, frozenset(rungs.reads), on_state))
                yield finish
        finally:
            for features in recorded:
                features.clear()

    def _run_side(self, batch: Batch, recorded: list[dict[int, Tensor]]) -> Tensor:
        side = self.side
        targets = recorded[1][0] if len(recorded) > 1 else None
        where = {
            rungs.first + place: (rungs, place, features)
            for rungs, features in zip(self.rungs, recorded, strict=True)
            for place in range(len(rungs.kept))
        }

        def on_call(block: int, call: BlockCall) -> None:
            rungs, place, features = where[block]
            own = side.as_tokens(call.hidden, call.hidden)
            call.hidden = side.as_hidden(rungs.mix(place, own, features), call.hidden)

        with block_calls(dict(enumerate(side.blocks)), on_call):
            return side.encode(side_batch(self.backbone, batch, recorded[0][0], targets))
