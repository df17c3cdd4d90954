"""The encoder kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sherl.backbones.backbone import KINDS, Backbone, Batch
from sherl.backbones.families import EncoderFamily
from sherl.backbones.padding import counted_from_first_token, ids_to_count_by
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.shapes import Bool, Float, Int


@KINDS.register("encoder")
class EncoderBackbone(Backbone):
    """The encoder kind: bidirectional blocks, one after the other, over one stream of tokens."""

    layout: EncoderFamily

    def encode(self, batch: Batch) -> Float[Tensor, "batch tokens width"]:
        """The last hidden state of ``input_ids`` [batch, tokens].

        ``attention_mask`` is 1 for tokens and 0 for padding (default: all tokens). ``token_type_ids`` are used where
        the family has them and left out elsewhere. Memory depends on shapes alone, never on the mask's values.

        Raises:
            SpecError: the input is longer than the position table, or has padding on the left and the model cannot.
        """
        ids = ids_to_count_by(self.layout, self.config, batch)
        if self.max_tokens is not None and ids.shape[1] > self.max_tokens:
            raise SpecError(
                f"The input has {ids.shape[1]} tokens, {self.family} takes at most {self.max_tokens}: "
                "tokenise with a smaller max_length."
            )
        inputs = {"input_ids": ids, "attention_mask": self.layout.masks(self.config, self.keep(batch), self.dtype)}
        types = batch.get("token_type_ids")
        if types is not None and self.takes_token_types:
            inputs["token_type_ids"] = types
        with counted_from_first_token(self.model, self.layout, batch):
            if self.layout.hidden is not None:
                return self.layout.hidden(self.model, inputs)
            hidden: Tensor = self.model(**inputs, return_dict=True).last_hidden_state
        return hidden

    def pool(
        self, hidden: Float[Tensor, "batch tokens width"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch _"]:
        """The mean of each example's tokens without padding, as sentence encoders pool, or the last token that the mask
        keeps, as the family's row says; float32."""
        if self.layout.pooling != "mean":
            places = torch.arange(hidden.shape[1], device=hidden.device)
            last = (attention_mask * places).argmax(dim=1)
            pooled = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
            if self.layout.pooled_by is not None:
                pooled = self.model.get_submodule(self.layout.pooled_by)(pooled)
            return pooled.float()
        weights = attention_mask.to(torch.float32)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1.0)
        return torch.bmm(weights[:, None, :].to(hidden.dtype), hidden)[:, 0].float()

    def pooled_mask(self, batch: Batch) -> Int[Tensor, "batch tokens"]:
        """1 for what :meth:`pool` is to take; where it takes the first end token, nothing behind that counts."""
        mask = super().pooled_mask(batch)
        if self.layout.pooling != "end":
            return mask
        ids, end = batch["input_ids"], self.config.eos_token_id
        # configurations of before 2023 say 2, and mean the highest id of their vocabulary
        ends = ids == ids.amax(dim=1, keepdim=True) if end == 2 else ids == end
        behind = (ends & mask.to(torch.bool)).to(torch.int64).cumsum(dim=1) - ends.to(torch.int64)
        return mask * (behind < 1)

    def is_causal(self, layer: int) -> bool:
        """Whether a position of this block sees none that comes later: of text encoders like CLIP's."""
        del layer
        return self.layout.causal

    @property
    def width(self) -> int:
        """D, the width of what :meth:`pool` gives; that of the hidden states but for a head of another width."""
        if self.layout.pooled_by is None:
            return self.width_of(0)
        return int(self.model.get_submodule(self.layout.pooled_by).out_features)

    def width_of(self, layer: int) -> int:
        """Width of a block's input, the same for all."""
        del layer
        return int(self.config.hidden_size)

    def prompt_arguments(
        self, keep: Bool[Tensor, "batch keys"], hidden: Float[Tensor, "batch keys width"]
    ) -> list[dict[str, Any]]:
        """What each block must be given when its input is ``hidden``, which has prompts in front.

        Raises:
            UnsupportedBackboneError: blocks of this family cannot carry prompts.
        """
        if self.layout.prompts is None:
            raise UnsupportedBackboneError(
                f"Blocks of a {self.family} model cannot carry prompts: {self.layout.no_prompts}."
            )
        return self.layout.prompts(self.model, self.blocks, keep, hidden)

    def cut_prompts(self, hidden: Float[Tensor, "batch keys width"], count: int) -> Float[Tensor, "batch tokens width"]:
        """The tokens alone."""
        return hidden[:, count:]

    @property
    def no_late_prompts(self) -> str | None:
        """Why prompts cannot enter at a late block; None where they can."""
        return self.layout.no_prompts if self.layout.prompts is None else None

    @property
    def no_input_prompts(self) -> str | None:
        """Why prompts cannot enter at the first block's input; None where they can."""
        if getattr(self.config, "conv_kernel_size", 0):  # DeBERTa-v2's larger models, v3 among them
            return "a convolution beside its first block reads the embeddings, which have no prompts among them"
        return self.no_late_prompts

    @property
    def takes_token_types(self) -> bool:
        """Whether the family has token types, and this model more than one."""
        return self.layout.token_types and getattr(self.config, "type_vocab_size", 0) > 1
