"""A pretrained model without head, seen as what every method needs: blocks, widths, a way to encode and to pool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sherl.backbones import fingerprint as fingerprints
from sherl.backbones.families import Family
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.shapes import Bool, Float, Int

# input_ids and attention_mask int64 [batch, tokens]; perhaps token_type_ids, labels
Batch: TypeAlias = Mapping[str, Tensor]


class Backbone(ABC):
    """A pretrained model as it is; kinds (encoder, ...) are subclasses. It is in evaluation mode; a method is
    put on it with ``config.apply(backbone, seed=...)`` and taken off again with ``remove()`` of what that gives.

    model: the model of transformers, without head. config: its configuration. layout: its family's row.
    source: the folder or hub id that it was loaded from; None if it was made from a configuration.
    """

    def __init__(self, model: Any, layout: Family, *, source: str | None = None, folder: Path | None = None) -> None:
        self.model: Any = model
        self.config: Any = model.config
        self.layout = layout
        self.source = source
        self.blocks = self._find_blocks()
        self.method_name: str | None = None  # of the method that is on it now
        self._folder = folder
        self._fingerprint: str | None = None

    def _find_blocks(self) -> nn.ModuleList:
        blocks = dict(self.model.named_modules()).get(self.layout.blocks)
        if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
            raise UnsupportedBackboneError(
                f"The row of {self.layout.name!r} says that its blocks are at {self.layout.blocks!r}; there is no list "
                "of blocks there."
            )
        return blocks

    @property
    def family(self) -> str:
        """Name of the family, e.g. ``bert``; the row itself is ``layout``."""
        return self.layout.name

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """D, the width of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def max_tokens(self) -> int | None:
        """The longest input, in tokens; None where positions are relative or rotary and nothing bounds it."""
        has_table = self.layout.positions in ("absolute", "from_padding")
        if not has_table and not getattr(self.config, "position_biased_input", False):  # DeBERTa may have both
            return None
        return int(self.config.max_position_embeddings) - self.layout.position_offset

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device  # type: ignore[no-any-return]  # transformers is untyped

    @property
    def dtype(self) -> torch.dtype:
        """What the weights were loaded in."""
        return next(self.model.parameters()).dtype  # type: ignore[no-any-return]  # transformers is untyped

    @property
    def is_real(self) -> bool:
        """Whether there are values behind the weights: not on meta, not fake."""
        return fingerprints.has_bytes(next(self.model.parameters()))

    @property
    def fingerprint(self) -> str:
        """sha256 over configuration and weights: of the files that it was loaded from, else of the tensors.

        Computed once. A backbone that lies in no file is fingerprinted before a method is put on it, so that
        training does not change it.

        Raises:
            SpecError: the backbone has no weights (meta, fake tensors).
        """
        if self._fingerprint is None:
            if self._folder is not None:
                self._fingerprint = fingerprints.of_folder(self._folder)
            elif self.is_real:
                self._fingerprint = fingerprints.of_model(self.model, self.config)
            else:
                raise SpecError("A backbone on meta or of fake tensors has no fingerprint: it has no weights.")
        return self._fingerprint

    def settle_fingerprint(self) -> None:
        """Make sure that the fingerprint is of the weights as they are now, before a method changes them."""
        if self._folder is None and self.is_real:
            _ = self.fingerprint

    @abstractmethod
    def encode(self, batch: Batch) -> Float[Tensor, "batch tokens width"]:
        """The last hidden state."""

    @abstractmethod
    def pool(
        self, hidden: Float[Tensor, "batch tokens width"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """One vector for each example."""

    @abstractmethod
    def prompt_arguments(
        self, keep: Bool[Tensor, "batch keys"], hidden: Float[Tensor, "batch keys width"]
    ) -> list[dict[str, Any]]:
        """What each block must be given when its input is ``hidden``, which has prompts in front."""


class EncoderBackbone(Backbone):
    """The encoder kind: bidirectional blocks, one after the other, over one stream of tokens."""

    def encode(self, batch: Batch) -> Float[Tensor, "batch tokens width"]:
        """The last hidden state of ``input_ids`` [batch, tokens].

        ``attention_mask`` is 1 for tokens and 0 for padding (default: all tokens). ``token_type_ids`` are used where
        the family has them and left out elsewhere. Memory depends on shapes alone, never on the mask's values.

        Raises:
            SpecError: the input is longer than the position table.
        """
        ids = batch["input_ids"]
        if self.max_tokens is not None and ids.shape[1] > self.max_tokens:
            raise SpecError(
                f"The input has {ids.shape[1]} tokens, {self.family} takes at most {self.max_tokens}: "
                "tokenise with a smaller max_length."
            )
        mask = batch.get("attention_mask")
        keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(torch.bool)
        inputs = {"input_ids": ids, "attention_mask": self.layout.masks(self.config, keep, self.dtype)}
        types = batch.get("token_type_ids")
        if types is not None and self._takes_token_types:
            inputs["token_type_ids"] = types
        if self.layout.hidden is not None:
            return self.layout.hidden(self.model, inputs)
        hidden: Tensor = self.model(**inputs, return_dict=True).last_hidden_state
        return hidden

    def pool(
        self, hidden: Float[Tensor, "batch tokens width"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """The mean of each example's tokens without padding, as sentence encoders pool; float32."""
        weights = attention_mask.to(torch.float32)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1.0)
        return torch.bmm(weights[:, None, :].to(hidden.dtype), hidden)[:, 0].float()

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

    @property
    def _takes_token_types(self) -> bool:
        return self.layout.token_types and getattr(self.config, "type_vocab_size", 0) > 1
