"""SHERL without late regulation: all layers are shallow, and their fusion is the output (section 4.3, fig. 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone, Batch
from sherl.insertion import other_forward
from sherl.methods.recording import hidden_states, stack_names
from sherl.methods.tuned import Route


class UnregulatedRoute(Route):
    """Puts the fusion of h_0 ... h_N in the place of the last block's output h_N, which is its guide.

    Of the pretrained model only what follows the last block (a final norm, ``norm`` in its place) has a graph.

    kept: which h_n are fused, the first and the last among them.
    """

    def __init__(
        self, backbone: Backbone, fusion: nn.Module, kept: frozenset[int], *, norm: nn.Module | None = None
    ) -> None:
        self.backbone = backbone
        self.fusion = fusion
        self.kept = kept
        own_norm = backbone.final_norm_of(backbone.stack_of(backbone.depth - 1))
        self._norms = None if norm is None or own_norm is None else (own_norm, norm)

    def reads(self) -> dict[str, tuple[int, ...]]:
        return {stack_names(self.backbone)[-1]: tuple(sorted(self.kept))}

    def keeps(self) -> list[str]:
        return ["of the fusion: features of the inner width, one for each hidden state read"]

    @contextmanager
    def run(self, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
        del batch
        backbone, features = self.backbone, list[Tensor]()

        def on_last(last: Tensor) -> Tensor:
            torch.set_grad_enabled(self.forms_graph)  # until the pass ends, which sets it back
            fused: Tensor = self.fusion([backbone.as_tokens(feature, last) for feature in features])
            features.clear()  # what backward needs, the graph holds
            return backbone.as_hidden(fused, last)

        try:
            with ExitStack() as stack:
                if self._norms is not None:
                    own, new = self._norms
                    stack.enter_context(other_forward(own, new.forward))
                stack.enter_context(
                    hidden_states(backbone, backbone.last_stack, self.kept, lambda _, h: features.append(h), on_last)
                )
                yield lambda last: last
        finally:
            features.clear()
