"""The decoder kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicCache

from sherl.backbones import masks
from sherl.backbones.backbone import KINDS, Backbone, Batch
from sherl.backbones.families import DecoderFamily
from sherl.backbones.writing import PADDING, pad_token_of, write_greedily
from sherl.errors import SpecError
from sherl.insertion import BlockCall, block_calls
from sherl.shapes import Bool, Float, Int


@KINDS.register("decoder")
class DecoderBackbone(Backbone):
    """The decoder kind: blocks over one stream of tokens, each of which sees itself and those before it.

    The model has its language head. Padding may stand on either side: positions are counted from the first token that is
    none, and the result is the same. Where no text is to be written (classification, regression), the hidden state of the
    last token stands for the example.
    """

    layout: DecoderFamily
    _prompts: Tensor | None = None  # what stands in front of the first block's input

    def encode(self, batch: Batch) -> Float[Tensor, "batch tokens width"]:
        """The last hidden state of ``input_ids`` [batch, tokens], behind the final norm.

        ``attention_mask`` is 1 for tokens and 0 for padding (default: all tokens); ``token_type_ids`` are left out. Memory
        depends on shapes alone, never on the mask's values.

        Raises:
            SpecError: the input is longer than the position table.
        """
        self._check_length(batch["input_ids"].shape[1], "tokenise with a smaller max_length")
        return self.read(batch["input_ids"], self.keep(batch), None)

    def read(
        self, ids: Int[Tensor, "batch queries"], keep: Bool[Tensor, "batch keys"], cache: DynamicCache | None
    ) -> Float[Tensor, "batch queries width"]:
        """The hidden states of the last tokens of a stream; of those before them the cache has keys and values.

        The cache keeps all of them, windows are in the masks: left padding would push keys out of a cache that forgets.
        """
        prompts, queries = self._prompts, ids.shape[1]
        positions = masks.positions_of(keep)
        with ExitStack() as stack:
            entering = 0
            if prompts is not None:
                count = len(prompts)
                entering = count if queries == keep.shape[1] else 0  # of what was written the cache has prompts too
                keep = functional.pad(keep, (count, 0), value=True)
                if self.layout.positions == "rotary":  # prompts are the tokens before the first
                    positions = masks.positions_of(keep)
                else:  # they take no row of a position table
                    positions = functional.pad(positions, (count, 0))
                if entering:
                    ids = functional.pad(ids, (count, 0), value=pad_token_of(self.config))
                    stack.enter_context(block_calls({0: self.blocks[0]}, _replaced_by(prompts)))
            inputs = {
                "input_ids": ids,
                "attention_mask": masks.for_streams(self.config, keep, ids.shape[1], self.dtype, self.layout.windows),
                "position_ids": positions[:, -ids.shape[1] :],
                "past_key_values": cache,
                "use_cache": cache is not None,
            }
            return self.layout.hidden(self.model, inputs)[:, entering:]

    def _check_length(self, tokens: int, advice: str) -> None:
        rotary = self.layout.positions == "rotary"  # where prompts take positions, see read()
        prompts = 0 if self._prompts is None or not rotary else len(self._prompts)
        if self.max_tokens is not None and tokens + prompts > self.max_tokens:
            beside = f" beside {prompts} prompts" if prompts else ""
            raise SpecError(
                f"The input has {tokens} tokens{beside}, {self.family} takes at most {self.max_tokens}: {advice}."
            )

    def is_causal(self, layer: int) -> bool:
        """Whether a position of this block sees none that comes later: of every block."""
        del layer
        return True

    def pool(
        self, hidden: Float[Tensor, "batch tokens width"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch width"]:
        """The hidden state of each row's last token that is no padding, which has seen all others; float32."""
        places = torch.arange(hidden.shape[1], device=hidden.device)
        last = (attention_mask.to(torch.int64) * places).argmax(dim=1)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), last].float()

    # ---------------------------------------------------------------- text

    @property
    def writes_text(self) -> bool:
        """Whether the model has a language head; it always has."""
        return True

    @property
    def continues_text(self) -> bool:
        """Whether each position of the input predicts the token behind it; it does."""
        return True

    def vocabulary_logits(self, hidden: Float[Tensor, "batch targets width"]) -> Float[Tensor, "batch targets words"]:
        """What the pretrained language head makes of the last hidden state."""
        return self.layout.logits(self.model, hidden)

    def teaching(self, batch: Batch) -> Batch:
        """Input and target as one stream: the input's tokens brought to the right, then all labels but the last."""
        ids, keep = self._aligned(batch)
        labels = batch["labels"][:, :-1]
        counts = labels != PADDING
        stream = torch.cat([ids, labels.masked_fill(~counts, pad_token_of(self.config))], dim=1)
        return {**batch, "input_ids": stream, "attention_mask": torch.cat([keep, counts], dim=1).to(torch.int64)}

    def target_states(
        self, hidden: Float[Tensor, "batch tokens width"], labels: Int[Tensor, "batch targets"]
    ) -> Float[Tensor, "batch targets width"]:
        """The last ones: the input's last token predicts the first label."""
        return hidden[:, -labels.shape[1] :]

    def writing_batch(self, batch: Batch) -> Batch:
        """The batch with its padding on the left, so that what is written follows each row's last token."""
        ids, keep = self._aligned(batch)
        return {**batch, "input_ids": ids, "attention_mask": keep.to(torch.int64)}

    def generate(
        self,
        batch: Batch,
        max_new_tokens: int,
        *,
        finish: Callable[[Tensor], Tensor],
        whole_length: bool = False,
        use_cache: bool = True,
    ) -> Int[Tensor, "batch new_tokens"]:
        """Tokens written greedily behind the input; see :meth:`sherl.methods.tuned.Tuned.generate`.

        Raises:
            SpecError: input and written tokens together are longer than the position table.
        """
        ids, keep = self._aligned(batch)
        self._check_length(
            ids.shape[1] + max_new_tokens - 1,
            f"{max_new_tokens - 1} of these are written and read again: tokenise with a smaller max_length, or write less",
        )
        cache = DynamicCache() if use_cache else None

        def score(unread: Tensor) -> Tensor:
            past = 0 if cache is None else int(cache.get_seq_length()) - self._count_of_prompts(cache)
            so_far = functional.pad(keep, (0, past + unread.shape[1] - keep.shape[1]), value=True)
            return self.vocabulary_logits(finish(self.read(unread, so_far, cache)[:, -1:]))

        return write_greedily(
            ids,
            score,
            max_new_tokens=max_new_tokens,
            ends=self.end_tokens,
            whole_length=whole_length,
            use_cache=use_cache,
        )

    def _count_of_prompts(self, cache: DynamicCache) -> int:
        return 0 if self._prompts is None or cache.get_seq_length() == 0 else len(self._prompts)

    def _aligned(self, batch: Batch) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
        """The input with its padding, on whichever side it stood, brought to the left."""
        ids, keep = batch["input_ids"], self.keep(batch)
        missing = (~keep).sum(dim=1, keepdim=True)
        places = torch.where(keep, keep.cumsum(dim=1) - 1 + missing, (~keep).cumsum(dim=1) - 1)
        return ids.scatter(1, places, ids), torch.arange(ids.shape[1], device=ids.device) >= missing

    # ---------------------------------------------------------------- prompts

    @contextmanager
    def prompted(self, batch: Batch, vectors: Float[Tensor, "prompts width"]) -> Iterator[Callable[[Tensor], Tensor]]:
        """Passes inside have these vectors in front of the first block's input, behind the embeddings.

        The stream has room for them from the start, so masks, positions and cache are made for both; with a cache they enter
        once. What the passes give is without them.
        """
        del batch
        self._prompts = vectors
        try:
            yield lambda hidden: hidden
        finally:
            self._prompts = None

    def cut_prompts(
        self, hidden: Float[Tensor, "batch tokens width"], count: int
    ) -> Float[Tensor, "batch tokens width"]:
        """As it is: :meth:`prompted` has cut them off."""
        del count
        return hidden

    def prompt_arguments(
        self, keep: Bool[Tensor, "batch keys"], hidden: Float[Tensor, "batch keys width"]
    ) -> list[dict[str, Any]]:
        """Nothing: :meth:`prompted` makes room in the stream, and the model makes every argument itself."""
        del keep, hidden
        return [{} for _ in self.blocks]

    @property
    def no_late_prompts(self) -> str | None:
        """Prompts can enter at the input only."""
        return "they are a decoder's, which writes token by token behind what it has written"


def _replaced_by(prompts: Float[Tensor, "prompts width"]) -> Callable[[int, BlockCall], None]:
    """What puts vectors in the place of the first tokens' embeddings."""

    def on_call(_layer: int, call: BlockCall) -> None:
        hidden = call.hidden
        vectors = prompts.to(hidden.dtype)[None].expand(hidden.shape[0], -1, -1)
        call.hidden = torch.cat([vectors, hidden[:, len(prompts) :]], dim=1)

    return on_call
