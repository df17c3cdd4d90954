"""Learned vectors in front of the tokens, through the late blocks: put there, carried along, cut off at the end."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sherl.backbones import Backbone, Batch
from sherl.backbones.padding import PromptPlaces
from sherl.errors import UnsupportedBackboneError
from sherl.insertion import BlockCall
from sherl.shapes import Float


class Prompting:
    """``vectors`` [num_prompts, width] enter in front of block ``first_layer``'s input.

    Raises:
        UnsupportedBackboneError: the family cannot carry prompts.
    """

    def __init__(self, backbone: Backbone, vectors: Float[Tensor, "prompts width"], *, first_layer: int) -> None:
        if backbone.no_late_prompts is not None:
            raise UnsupportedBackboneError(
                f"A {backbone.family} model cannot carry prompts: {backbone.no_late_prompts}."
            )
        self.backbone = backbone
        self.vectors = vectors
        self.first_layer = first_layer

    def begin(self, batch: Batch) -> PromptedPass:
        """For one forward pass."""
        return PromptedPass(self, batch)


class PromptedPass:
    """The prompts of one forward pass; ``keep`` [batch, prompts + tokens] says what may be attended to."""

    def __init__(self, prompting: Prompting, batch: Batch) -> None:
        self._prompting = prompting
        self._count = len(prompting.vectors)
        tokens = prompting.backbone.keep(batch)
        self._places = PromptPlaces(batch, self._count)
        self.keep = self._places.join(tokens.new_ones((len(tokens), self._count)), tokens)
        self._arguments: list[dict[str, Any]] | None = None

    def split(self, layer: int, hidden: Tensor) -> tuple[Tensor | None, Tensor]:
        """The prompts in a block's input (None where they have not entered yet) and the tokens in it."""
        if layer <= self._prompting.first_layer:
            return None, hidden
        hidden = self._places.in_front(hidden)
        return hidden[:, : self._count], hidden[:, self._count :]

    def join(self, layer: int, call: BlockCall, prompts: Tensor | None, hidden: Tensor) -> None:
        """Give a block prompts and tokens, with masks and positions for both; early blocks get their tokens alone."""
        if layer < self._prompting.first_layer:
            call.hidden = hidden
            return
        if prompts is None:
            vectors = self._prompting.vectors.to(hidden.dtype)
            prompts = vectors[None].expand(hidden.shape[0], -1, -1)
        call.hidden = self._places.join(prompts, hidden)
        if self._arguments is None:  # they are the same for every late block: made once a pass
            self._arguments = self._prompting.backbone.prompt_arguments(self.keep, call.hidden)
        for name, value in self._arguments[layer].items():
            call.set(name, value)

    def cut(self, hidden: Tensor) -> Tensor:
        """The last hidden state without the prompts."""
        return self._places.in_front(hidden)[:, self._count :]
