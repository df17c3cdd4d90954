"""SHERL inside a forward pass: what is recorded, where it is fused, what late blocks get instead of their own inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sherl.backbones import Backbone, Batch, Stack
from sherl.errors import UnsupportedBackboneError
from sherl.insertion import BlockCall, block_calls, other_forward
from sherl.methods.prompting import Prompting
from sherl.methods.recording import stack_names
from sherl.methods.tuned import Route
from sherl.shapes import Float


class Selection:
    """Which hidden states h_l (inputs of block l of a stack) are fused: h_0, those of kept blocks, all from the start on.

    layers: of the stack, counted over the whole backbone. kept: blocks counted in the stack, by their outputs; None: all.
    """

    def __init__(self, layers: range, start: int, kept: Sequence[int] | None) -> None:
        self.layers = layers
        self._selected = {
            layer
            for layer in layers
            if kept is None or layer >= start or layer == layers.start or layer - layers.start - 1 in kept
        }

    def __contains__(self, layer: int) -> bool:
        return layer in self._selected

    def widths(self, backbone: Backbone, layer: int) -> list[int]:
        """Of the features that there are in front of a block, in their order; its own input's is the last."""
        return [
            backbone.width_of(one) if one < backbone.depth else backbone.output_width
            for one in sorted(self._selected)
            if one <= layer
        ]

    def places(self) -> frozenset[int]:
        """The numbers n of the h_n that are fused."""
        return frozenset(layer - self.layers.start for layer in self._selected)


class FinalNorm(nn.Module):
    """A norm that starts at ones (and zeros) in place of a pretrained one: of its form, without its values.

    float32 parameters, computed in the precision of what it is given.
    """

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        scale, bias = like.get_parameter("weight"), getattr(like, "bias", None)
        self.weight = nn.Parameter(torch.ones(scale.shape))
        self.bias = None if bias is None else nn.Parameter(torch.zeros(bias.shape))
        self.centred = isinstance(like, nn.LayerNorm)  # else a norm by the root mean square alone, as T5's
        epsilon: Any = like.eps if isinstance(like, nn.LayerNorm) else getattr(like, "variance_epsilon", 1e-6)
        self.epsilon = float(epsilon)

    def forward(self, hidden: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        weight = self.weight.to(hidden.dtype)
        if not self.centred:
            return functional.rms_norm(hidden, weight.shape, weight, self.epsilon)
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return functional.layer_norm(hidden, weight.shape, weight, bias, self.epsilon)


def final_norm_for(backbone: Backbone, stack: Stack) -> FinalNorm:
    """A new norm in place of a stack's last one.

    Raises:
        UnsupportedBackboneError: there is none, or none that has a scale.
    """
    norm = backbone.final_norm_of(stack)
    if norm is None or not isinstance(getattr(norm, "weight", None), Tensor):
        raise UnsupportedBackboneError(
            f"Method sherl: final_norm 'new' puts a new norm in the place of the one behind {stack.blocks!r}, and a "
            f"{backbone.family} model has none there{'' if norm is None else ' with a scale'}: take final_norm 'pretrained' (beside "
            "the preset 'released', which says 'new': {'preset': 'released', 'final_norm': 'pretrained'}). What is fused then ends "
            "as the model does."
        )
    return FinalNorm(norm)


class SourceFusion:
    """The fused output of an encoder, for the late blocks of a decoder.

    selection: over the encoder's blocks and one layer more, which stands for the output of the last.
    norm: what the fused state goes through; None where the encoder ends without a norm.
    """

    def __init__(self, backbone: Backbone, selection: Selection, fusion: nn.Module, norm: nn.Module | None) -> None:
        self.selection, self._fusion, self._norm = selection, fusion, norm
        self._blocks = dict(enumerate(backbone.blocks[: selection.layers[-1]]))
        self._features: list[Tensor] = []
        self._fused: Tensor | None = None

    @contextmanager
    def run(self) -> Iterator[None]:
        """Records during one pass of the encoder; :meth:`fused` can be asked for until the ``with`` ends."""

        def on_call(layer: int, call: BlockCall) -> None:
            if layer in self.selection:
                self._features.append(call.hidden)

        def on_end(_block: nn.Module, _inputs: Any, output: Any) -> None:
            self._features.append(output if isinstance(output, Tensor) else output[0])

        try:
            with block_calls(self._blocks, on_call), ExitStack() as stack:
                last = self._blocks[max(self._blocks)]
                stack.callback(last.register_forward_hook(on_end).remove)
                yield
        finally:
            self._features.clear()
            self._fused = None

    def fused(self) -> Float[Tensor, "batch tokens width"]:
        """What late blocks cross-attend to; computed once a pass, at the first call."""
        if self._fused is None:
            fused: Tensor = self._fusion(self._features)
            self._features.clear()  # what backward needs, the graph holds
            self._fused = fused if self._norm is None else self._norm(fused)
        return self._fused


class SherlRoute(Route):
    """Records the inputs of early blocks and replaces those of late ones.

    fusions: by the block that they stand in front of. source: of an encoder-decoder. norm: in place of the last stack's
    own final norm, which it is in place of while a pass runs.
    """

    def __init__(
        self,
        backbone: Backbone,
        fusions: dict[int, nn.Module],
        selection: Selection,
        *,
        source: SourceFusion | None = None,
        norm: nn.Module | None = None,
        prompting: Prompting | None = None,
    ) -> None:
        self.backbone = backbone
        self.fusions = fusions
        self.selection = selection
        self.source = source
        self.prompting = prompting
        self.first_of_stack = selection.layers.start
        self.first_late = min(fusions)
        self.last_fused = max(fusions)
        own_norm = backbone.final_norm_of(backbone.stack_of(backbone.depth - 1))
        self._norms = None if norm is None or own_norm is None else (own_norm, norm)
        # late blocks of a decoder are given the fused source, late blocks with prompts their masks
        reaches_end = prompting is not None or source is not None
        seen = selection.layers if reaches_end else range(selection.layers.start, self.last_fused + 1)
        self.blocks = {layer: backbone.blocks[layer] for layer in seen}

    def reads(self) -> dict[str, tuple[int, ...]]:
        names = stack_names(self.backbone)
        last = self.last_fused - self.first_of_stack
        found = {names[-1]: tuple(n for n in sorted(self.selection.places()) if n <= last)}
        if self.source is None:
            return found
        return {names[0]: tuple(sorted(self.source.selection.places())), **found}

    def keeps(self) -> list[str]:
        count = len(self.fusions) + (self.source is not None)
        fusions = "fusion" if count == 1 else f"{count} fusions"
        return [f"of the {fusions}: features of the inner width, one for each hidden state read"]

    @contextmanager
    def run(self, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
        backbone, features = self.backbone, list[Tensor]()
        prompted = None if self.prompting is None else self.prompting.begin(batch)

        def on_call(layer: int, call: BlockCall) -> None:
            if self.source is not None and layer == self.first_of_stack and not self.forms_graph:
                self.source.fused()  # what was recorded of the encoder goes before a decoder that writes fills its cache
            prompts, hidden = (None, call.hidden) if prompted is None else prompted.split(layer, call.hidden)
            if layer <= self.last_fused and layer in self.selection:
                features.append(hidden)
            if layer in self.fusions:
                fused = self.fusions[layer]([backbone.as_tokens(feature, hidden) for feature in features])
                hidden = backbone.as_hidden(fused, hidden)
            if layer == self.last_fused:
                features.clear()  # what backward needs, the graph holds; the rest can go before the block runs
            if self.source is not None and layer >= self.first_late:
                call.set("encoder_hidden_states", self.source.fused())
            if prompted is None:
                call.hidden = hidden
            else:
                prompted.join(layer, call, prompts, hidden)

        try:
            with ExitStack() as stack:
                if self.source is not None:
                    stack.enter_context(self.source.run())
                if self._norms is not None:
                    own, new = self._norms
                    stack.enter_context(other_forward(own, new.forward))
                stack.enter_context(block_calls(self.blocks, on_call))
                yield (lambda last: last) if prompted is None else prompted.cut
        finally:
            features.clear()
