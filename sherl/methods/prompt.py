"""Prompt tuning: learned vectors in front of the input (Lester et al., 2021)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sherl.backbones import Backbone, Batch
from sherl.errors import UnsupportedBackboneError
from sherl.methods.base import METHODS, MethodConfig
from sherl.methods.late import LatePart
from sherl.methods.late.prompt import PromptVectors
from sherl.methods.settings import flag, whole_number
from sherl.methods.tuned import Route, Tuned


@METHODS.register("prompt")
@dataclass(frozen=True, kw_only=True)
class PromptConfig(MethodConfig):
    """num_prompts learned vectors, N(0, 0.01), stand in front of the first block's input and run through all blocks.

    Of an encoder-decoder that is the encoder's input, and the decoder attends to what becomes of them. Of an encoder or
    a decoder they are cut off the last hidden state.
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
    """Puts the vectors in front of the first block's input."""

    def __init__(self, backbone: Backbone, prompts: PromptVectors) -> None:
        self.backbone = backbone
        self.prompts = prompts

    def keeps(self) -> list[str]:
        return [f"of every block: {len(self.prompts.vectors)} positions more"]

    @contextmanager
    def run(self, batch: Batch) -> Iterator[Callable[[Tensor], Tensor]]:
        with self.backbone.prompted(batch, self.prompts.vectors) as finish:
            yield finish
