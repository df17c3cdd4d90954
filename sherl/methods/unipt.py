"""UniPT: a parallel network over a wholly frozen backbone (Diao et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone, Batch
from sherl.errors import SpecError
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.kept_layers import KeptLayers, as_setting, kept_layers_problem, kept_of
from sherl.methods.late import LatePart
from sherl.methods.parallel import Context, ParallelNetwork
from sherl.methods.recording import OnState, hidden_states, stack_names, stacks_of, width_at
from sherl.methods.settings import whole_number
from sherl.methods.side import SideLinear, counted_positions, joined, output_problem
from sherl.methods.tuned import Route, Tuned


@METHODS.register("unipt")
@dataclass(frozen=True, kw_only=True)
class UniptConfig(MethodConfig):
    """The hidden states h_0 ... h_N of a frozen backbone go through a parallel network (:mod:`sherl.methods.parallel`).

    h_0 is what the first block gets, h_N, the anchor, what the last one gives, before the final norm. The result, up(ReLU
    of it), takes the place of the last hidden state behind the final norm: it goes to the pooling or to the language head
    as it is. No block has a gradient. A token x token figure is kept for each layer: memory grows with the length squared.

    Of an encoder-decoder both stacks have a network. The encoder's narrow result is one more term of what the decoder's
    sums up; given to the frozen decoder itself, it would make the whole decoder keep a graph. On causal stacks no token
    sees a later one (both this project's variants).

    reduction_factor: the inner width is ``max(1, width // reduction_factor)``; 2 in UniPT's experiments (SHERL, sec. 4.1).
    kept_layers: the blocks (0-based, of each stack) whose outputs are read, by list or by rule
        (:data:`sherl.methods.kept_layers.KeptLayers`), beside h_0 and the anchor; None for all.
    output: ``replaced`` as published; ``added``: to the last hidden state, so that training starts near the pretrained
        network's own.
    """

    name: ClassVar[str] = "unipt"
    reduction_factor: int = 2
    kept_layers: KeptLayers = None
    output: str = "replaced"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kept_layers", as_setting(self.kept_layers))
        super().__post_init__()

    def problems(self) -> list[str]:
        return [
            *whole_number("reduction_factor", self.reduction_factor),
            *kept_layers_problem(self.kept_layers),
            *output_problem(self.output),
        ]

    def first_late_layer(self, backbone: Backbone) -> int:
        if self.reduction_factor > backbone.output_width:
            raise SpecError(
                f"Method unipt: reduction_factor {self.reduction_factor} is over the backbone's width: allowed are 1 to "
                f"{backbone.output_width}."
            )
        for stack in stacks_of(backbone):
            self._places(backbone, stack)
        return backbone.depth

    def _places(self, backbone: Backbone, stack: range) -> list[int]:
        """The numbers n of the h_n of a stack that are read."""
        deepest = max(len(one) for one in stacks_of(backbone))
        kept = kept_of(self.kept_layers, len(stack), method=self.name, deepest=deepest)
        return sorted({0, len(stack), *(layer + 1 for layer in kept)})

    def put_on(self, tuned: Tuned) -> None:
        backbone = tuned.backbone
        stacks = stacks_of(backbone)
        inner = max(1, backbone.output_width // self.reduction_factor)
        places = [self._places(backbone, stack) for stack in stacks]
        networks = [
            ParallelNetwork(
                [width_at(backbone, stack, place) for place in read],
                inner,
                causal=backbone.is_causal(stack.start),
                with_context=stack.start > 0,
            )
            for stack, read in zip(stacks, places, strict=True)
        ]
        up = SideLinear(inner, backbone.hidden_width)
        names = ["encoder", "decoder"] if len(stacks) > 1 else ["stack"]
        module = nn.ModuleDict({**dict(zip(names, networks, strict=True)), "up": up})
        tuned.add("parallel", LatePart(parameters=dict(module.named_parameters()), module=module))
        tuned.route = UniptRoute(backbone, networks, up, places, output=self.output)


class UniptRoute(Route):
    """Records the hidden states of every stack, and computes the networks behind the pass.

    Each token's feature depends on all tokens before it, which a key/value cache would not show again.
    """

    works_with_cache = False

    def __init__(
        self,
        backbone: Backbone,
        networks: list[ParallelNetwork],
        up: nn.Module,
        places: list[list[int]],
        *,
        output: str,
    ) -> None:
        self.backbone = backbone
        self.networks = networks
        self.up = up
        self.places = places
        self.output = output

    def reads(self) -> dict[str, tuple[int, ...]]:
        return dict(zip(stack_names(self.backbone), map(tuple, self.places), strict=True))

    def keeps(self) -> list[str]:
        count = sum(len(places) - 1 for places in self.places)
        return [f"of the parallel network: {count} figures of tokens x tokens, and features of the inner width"]

    @contextmanager
    def run(self, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
        backbone = self.backbone
        stacks = stacks_of(backbone)
        recorded: list[list[Tensor]] = [[] for _ in stacks]
        contexts: list[Context] = []  # of the encoder, computed once while text is written

        def recorder(states: list[Tensor], *, is_source: bool) -> OnState:
            def on_state(place: int, hidden: Tensor) -> None:
                if place == 0:  # the pass before, of text that is being written, is over
                    states.clear()
                    if is_source:
                        contexts.clear()
                states.append(hidden)

            return on_state

        def narrow(index: int, context: Context | None) -> Context:
            states = [backbone.as_tokens(state, recorded[index][-1]) for state in recorded[index]]
            recorded[index].clear()  # what backward needs, the graph holds
            keep = counted_positions(backbone, batch, stacks[index], states[-1])
            hidden: Tensor = self.networks[index](states, keep, context)
            return Context(hidden, keep)

        def finish(last: Tensor) -> Tensor:
            with torch.set_grad_enabled(self.forms_graph):
                if len(stacks) > 1 and not contexts:
                    contexts.append(narrow(0, None))
                merged = narrow(len(stacks) - 1, contexts[0] if contexts else None).hidden
                return joined(self.output, self.up(merged.relu()), last)

        try:
            with ExitStack() as hooks:
                for index, (stack, places) in enumerate(zip(stacks, self.places, strict=True)):
                    on_state = recorder(recorded[index], is_source=stack.start == 0)
                    hooks.enter_context(hidden_states(backbone, stack, frozenset(places), on_state))
                yield finish
        finally:
            contexts.clear()
            for states in recorded:
                states.clear()
