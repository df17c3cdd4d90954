"""Prompt tuning: learned vectors in front of the input (Lester et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone, Batch
from sherl.errors import UnsupportedBackboneError
from sherl.insertion import BlockCall, block_calls
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late import LatePart
from sherl.methods.late.prompt import PromptVectors
from sherl.methods.settings import flag, whole_number
from sherl.methods.tuned import Route, Tuned


@METHODS.register("prompt")
@dataclass(frozen=True, kw_only=True)
class PromptConfig(MethodConfig):
    """num_prompts learned vectors, N(0, 0.01), stand in front of the first block's input and run through all blocks.

    Of an encoder-decoder that is the encoder's input, and the decoder attends to what becomes of them. Where it is the
    last hidden state that counts (encoders), they are cut off there.
    num_prompts: 100 in SHERL's table 1.
    activation_checkpointing: all blocks run again in backward instead of keeping their activations.
    """

    name: ClassVar[str] = "prompt"
    num_prompts: int = 100
    activation_checkpointing: bool = False

    def problems(self) -> list[str]:
        return [
            *whole_number("num_prompts", self.num_prompts),
            *flag("activation_checkpointing", self.activation_checkpointing),
        ]

    def put_on(self, tuned: Tuned) -> None:
        backbone = tuned.backbone
        if backbone.no_input_prompts is not None:
            raise UnsupportedBackboneError(
                f"Method prompt: a {backbone.family} model cannot carry prompts at its input: {backbone.no_input_prompts}. "
                "LoRA and adapters fit every family."
            )
        width = backbone.width_of(0)
        vectors = PromptVectors(self.num_prompts, width)
        tuned.add("prompt", LatePart(parameters=dict(vectors.named_parameters()), module=vectors))
        keep = torch.ones((1, self.num_prompts + 1), dtype=torch.bool)
        # a family that cannot carry prompts says so here, not in the first step
        backbone.prompt_arguments(keep, torch.zeros((1, self.num_prompts + 1, width), dtype=backbone.dtype))
        if self.activation_checkpointing:
            tuned.checkpoint_late_blocks()
        tuned.route = PromptRoute(backbone, vectors)


class PromptRoute(Route):
    """Puts the vectors in front of the first block's input, and gives every block the masks and positions for both."""

    def __init__(self, backbone: Backbone, prompts: PromptVectors) -> None:
        self.backbone = backbone
        self.prompts = prompts
        self.blocks: dict[int, nn.Module] = dict(enumerate(backbone.blocks))

    @contextmanager
    def run(self, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
        vectors = self.prompts.vectors
        tokens = self.backbone.keep(batch)
        keep = torch.cat([tokens.new_ones((len(tokens), len(vectors))), tokens], dim=1)
        arguments: list[dict[str, Any]] = []

        def on_call(layer: int, call: BlockCall) -> None:
            if layer == 0:
                prompts = vectors.to(call.hidden.dtype)[None].expand(len(tokens), -1, -1)
                call.hidden = torch.cat([prompts, call.hidden], dim=1)
                arguments[:] = self.backbone.prompt_arguments(keep, call.hidden)
            for name, value in arguments[layer].items():
                call.set(name, value)

        try:
            with block_calls(self.blocks, on_call):
                yield lambda hidden: self.backbone.cut_prompts(hidden, len(vectors))
        finally:
            arguments.clear()
