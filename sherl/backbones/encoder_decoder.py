"""The encoder-decoder kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from sherl.backbones import masks
from sherl.backbones.backbone import KINDS, Backbone, Batch
from sherl.backbones.families import EncoderDecoderFamily
from sherl.backbones.padding import counted_from_first_token
from sherl.backbones.writing import PADDING, pad_token_of, write_greedily
from sherl.errors import SpecError
from sherl.forms import TensorForm
from sherl.shapes import Bool, Float, Int


@dataclass(frozen=True)
class Source:
    """What the decoder reads: the encoder's output [batch, tokens, width] and its additive mask [batch, 1, 1, tokens], None
    where all of it counts."""

    hidden: Tensor
    mask: Tensor | None


@KINDS.register("encoder-decoder")
class EncoderDecoderBackbone(Backbone):
    """The encoder-decoder kind: an encoder that is run once, and a decoder that sees earlier positions and the encoder.

    The model has its language head. Where no text is to be written (classification, regression), the decoder reads its
    start token alone, and the hidden state there stands for the example.
    """

    layout: EncoderDecoderFamily

    def encode(self, batch: Batch) -> Float[Tensor, "batch targets width"]:
        """The decoder's last hidden state.

        ``input_ids`` [batch, tokens] and ``attention_mask`` (default: all tokens) go to the encoder;
        ``decoder_input_ids`` [batch, targets] (default: the start token alone) to the decoder. An encoder that hears takes
        ``input_features`` [batch, bins, frames] instead, of the number of frames that its configuration says. Memory
        depends on shapes alone, never on the mask's values.

        Raises:
            SpecError: input or targets are longer than the position table, there are more or fewer frames, or the input has
                padding on the left and the encoder cannot.
        """
        ids = batch.get("decoder_input_ids")
        if ids is None:
            ids = self._start(self._input_of(batch))
        return self._write(ids, self._read(batch), None)

    def _input_of(self, batch: Batch) -> Tensor:
        name = "input_ids" if self.layout.frames is None else "input_features"
        if name not in batch:
            raise SpecError(f"A {self.family} model reads {name!r}; the batch has {', '.join(sorted(batch))} alone.")
        return batch[name]

    def _hear(self, features: Float[Tensor, "batch bins frames"], frames: int) -> Source:
        if features.shape[2] != frames:
            raise SpecError(
                f"The input has {features.shape[2]} frames, {self.family} takes {frames} of them, neither more nor fewer: "
                "let its feature extractor pad speech with silence and cut it."
            )
        encoder = self.model.get_encoder()
        return Source(encoder(features.to(self.dtype), return_dict=True).last_hidden_state, None)

    def keep(self, batch: Batch) -> Bool[Tensor, "batch tokens"]:
        """Which positions of the first block's input count: of an encoder that hears all."""
        if self.layout.frames is None:
            return super().keep(batch)
        features = self._input_of(batch)
        return features.new_ones((len(features), features.shape[2] // 2), dtype=torch.bool)  # a convolution halves them

    def inputs_form(self, rows: int, *, tokens: int, image_size: int | None = None) -> dict[str, TensorForm]:
        """Ids and mask, or the float32 ``input_features`` [rows, bins, frames] of an encoder that hears."""
        if self.layout.frames is None:
            return super().inputs_form(rows, tokens=tokens, image_size=image_size)
        shape = (rows, int(self.config.num_mel_bins), self.layout.frames(self.config))
        return {"input_features": TensorForm(shape, "float32")}

    def _read(self, batch: Batch) -> Source:
        ids = self._input_of(batch)
        if self.layout.frames is not None:
            return self._hear(ids, self.layout.frames(self.config))
        self._check_length(ids.shape[1], "input", "tokenise with a smaller max_length")
        mask = masks.additive(self.keep(batch), self.dtype)
        encoder = self.model.get_encoder()
        with counted_from_first_token(encoder, self.layout, batch):
            return Source(encoder(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state, mask)

    def _write(
        self, ids: Int[Tensor, "batch targets"], source: Source, cache: EncoderDecoderCache | None
    ) -> Float[Tensor, "batch targets width"]:
        past = 0 if cache is None else int(cache.get_seq_length())
        self._check_length(past + ids.shape[1], "target", "take shorter targets")
        mask = masks.causal(ids.shape[1], past + ids.shape[1], dtype=self.dtype, device=ids.device)
        hidden: Tensor = self.model.get_decoder()(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=source.hidden,
            past_key_values=cache,
            use_cache=cache is not None,
            return_dict=True,
            **({} if source.mask is None else {"encoder_attention_mask": source.mask}),
        ).last_hidden_state
        return hidden

    def _check_length(self, tokens: int, what: str, advice: str) -> None:
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise SpecError(f"The {what} has {tokens} tokens, {self.family} takes at most {self.max_tokens}: {advice}.")

    def is_causal(self, layer: int) -> bool:
        """Whether a position of this block sees none that comes later: of the decoder's blocks."""
        return layer in self.last_stack

    # ---------------------------------------------------------------- text

    @property
    def writes_text(self) -> bool:
        """Whether the model has a language head; it always has."""
        return True

    def vocabulary_logits(self, hidden: Float[Tensor, "batch targets width"]) -> Float[Tensor, "batch targets words"]:
        """What the pretrained language head makes of the decoder's last hidden state."""
        return self.layout.logits(self.model, hidden)

    def teaching(self, batch: Batch) -> Batch:
        """The decoder reads its start token, then all labels but the last; -100 becomes the padding token."""
        labels = batch["labels"]
        shifted = torch.cat([self._start(labels), labels[:, :-1]], dim=1)
        return {**batch, "decoder_input_ids": shifted.masked_fill_(shifted == PADDING, self._pad)}

    def target_states(
        self, hidden: Float[Tensor, "batch targets width"], labels: Int[Tensor, "batch targets"]
    ) -> Float[Tensor, "batch targets width"]:
        """All of them: the decoder reads nothing else."""
        del labels
        return hidden

    def generate(
        self,
        batch: Batch,
        max_new_tokens: int,
        *,
        finish: Callable[[Tensor], Tensor],
        whole_length: bool = False,
        use_cache: bool = True,
    ) -> Int[Tensor, "batch new_tokens"]:
        """Tokens written greedily; see :meth:`sherl.methods.tuned.Tuned.generate`.

        Raises:
            SpecError: input or written tokens are longer than the position table.
        """
        source = self._read(batch)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if use_cache else None

        def score(ids: Tensor) -> Tensor:
            return self.vocabulary_logits(finish(self._write(ids, source, cache)[:, -1:]))

        return write_greedily(
            self._start(self._input_of(batch)),
            score,
            max_new_tokens=max_new_tokens,
            ends=self.end_tokens,
            whole_length=whole_length,
            use_cache=use_cache,
        )

    def _start(self, like: Tensor) -> Int[Tensor, "batch 1"]:
        start = getattr(self.config, "decoder_start_token_id", None)
        return like.new_full((len(like), 1), self._pad if start is None else int(start), dtype=torch.int64)

    @property
    def _pad(self) -> int:
        return pad_token_of(self.config)

    # ---------------------------------------------------------------- what methods need

    def pool(
        self, hidden: Float[Tensor, "batch targets width"], attention_mask: Int[Tensor, "batch targets"]
    ) -> Float[Tensor, "batch width"]:
        """The hidden state of the last position that counts, which has seen all others; float32."""
        last = attention_mask.to(torch.int64).sum(dim=1).clamp(min=1) - 1
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, last].float()

    def pooled_mask(self, batch: Batch) -> Int[Tensor, "batch targets"]:
        """1 for every position that the decoder read; without ``decoder_input_ids`` that is its start token."""
        ids = batch.get("decoder_input_ids")
        return torch.ones_like(self._start(self._input_of(batch)) if ids is None else ids)

    def prompt_arguments(
        self, keep: Bool[Tensor, "batch keys"], hidden: Float[Tensor, "batch keys width"]
    ) -> list[dict[str, Any]]:
        """The masks of ``prompts + tokens`` for the encoder's blocks and, as the decoder attends to both, for its own.

        Relative positions (T5) are made by the first block from the length of what it gets.
        """
        mask = masks.additive(keep, hidden.dtype)
        first_of_decoder = self.last_stack.start
        return [
            {"attention_mask": mask} if layer < first_of_decoder else {"encoder_attention_mask": mask}
            for layer in range(self.depth)
        ]

    def cut_prompts(
        self, hidden: Float[Tensor, "batch targets width"], count: int
    ) -> Float[Tensor, "batch targets width"]:
        """As it is: prompts stood in front of the encoder's tokens, not of the decoder's."""
        del count
        return hidden

    @property
    def no_input_prompts(self) -> str | None:
        """Why prompts cannot enter at the encoder's input; None where they can."""
        return self.layout.no_prompts

    @property
    def no_late_prompts(self) -> str | None:
        """Prompts can enter at the encoder's input only."""
        return "its late blocks are a decoder's, which writes token by token behind what it has written"
