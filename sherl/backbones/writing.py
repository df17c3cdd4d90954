"""Text that a backbone writes: what every backbone says of it, and writing greedily, token by token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sherl.errors import UnsupportedBackboneError
from sherl.shapes import Bool, Float, Int

PADDING = -100
"""Stands in targets and in generated tokens behind the end."""
NOT_FINITE = -1
"""Stands in generated tokens where the logits were not finite."""


class Writing(ABC):
    """What a backbone says and does about text; as it stands here, one that writes none.

    model: the model of transformers.
    """

    model: Any

    @property
    def writes_text(self) -> bool:
        """Whether the model has a language head, so that it can :meth:`generate`."""
        return False

    @property
    def continues_text(self) -> bool:
        """Whether each position of the input predicts the token behind it, so that texts themselves can be learnt."""
        return False

    def vocabulary_logits(self, hidden: Float[Tensor, "batch targets width"]) -> Float[Tensor, "batch targets words"]:
        """What the pretrained language head makes of the last hidden state.

        Raises:
            UnsupportedBackboneError: the model writes no text.
        """
        del hidden
        raise self.no_text()

    def teaching(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What :meth:`encode` is given to be taught ``labels`` [batch, targets] (-100 is padding), each from those before it.

        Raises:
            UnsupportedBackboneError: the model writes no text.
        """
        del batch
        raise self.no_text()

    def target_states(
        self, hidden: Float[Tensor, "batch tokens width"], labels: Int[Tensor, "batch targets"]
    ) -> Float[Tensor, "batch targets width"]:
        """Of the last hidden state of a :meth:`teaching` batch those positions that predict the labels.

        Raises:
            UnsupportedBackboneError: the model writes no text.
        """
        del hidden, labels
        raise self.no_text()

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """The tokens that end what is written: those of the configuration and of the generation configuration beside it, in
        which chat models name the end of a turn."""
        said = [getattr(self.model.config, "eos_token_id", None)]
        said.append(getattr(getattr(self.model, "generation_config", None), "eos_token_id", None))
        each = [one for ids in said for one in (ids if isinstance(ids, list) else [ids]) if one is not None]
        return tuple(dict.fromkeys(map(int, each)))

    def writing_batch(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The batch as :meth:`generate` reads it: whatever looks at the batch of a pass that writes must look at this one."""
        return batch

    def generate(
        self,
        batch: Mapping[str, Tensor],
        max_new_tokens: int,
        *,
        finish: Callable[[Tensor], Tensor],
        whole_length: bool = False,
        use_cache: bool = True,
    ) -> Int[Tensor, "batch new_tokens"]:
        """Tokens written greedily; see :meth:`sherl.methods.tuned.Tuned.generate`. ``finish`` is what a method does to
        the last hidden state.

        Raises:
            UnsupportedBackboneError: the model writes no text.
        """
        del batch, max_new_tokens, finish, whole_length, use_cache
        raise self.no_text()

    def no_text(self) -> UnsupportedBackboneError:
        """The error that says that this model writes no text, and what to do."""
        return UnsupportedBackboneError(
            f"A {self.family} model writes no text. Take a decoder (gpt2, llama, qwen3) or an encoder-decoder (t5, mt5, bart, "
            "pegasus) for text-to-text, or make the task classification or regression."
        )

    def no_continuation(self) -> UnsupportedBackboneError:
        """The error that says that this model is no language model, and what to do."""
        return UnsupportedBackboneError(
            f"A {self.family} model does not predict each next token of its input. Take a decoder (gpt2, llama, qwen3) for "
            "language modelling, or make the task text-to-text or classification."
        )

    @property
    @abstractmethod
    def family(self) -> str:
        """Name of the family."""


def write_greedily(
    start: Int[Tensor, "batch tokens"],
    score: Callable[[Tensor], Tensor],
    *,
    max_new_tokens: int,
    ends: Sequence[int],
    whole_length: bool,
    use_cache: bool,
) -> Int[Tensor, "batch max_new_tokens"]:
    """The best tokens, one after the other; see :meth:`sherl.methods.tuned.Tuned.generate`.

    start: what stands there before anything is written. score: logits [batch, 1, words] of what comes next. With
    ``use_cache`` it is given ``start`` first and then the last token alone, else all tokens each time. ends: tokens that
    end a row.
    """
    ended = torch.zeros_like(start[:, :1], dtype=torch.bool)
    written = torch.full((len(start), max_new_tokens), PADDING, dtype=torch.int64, device=start.device)
    unread = start
    for place in range(max_new_tokens):
        best = _best(score(unread))
        written[:, place : place + 1] = best.masked_fill(ended, PADDING)
        token = best.clamp(min=0)
        ended = ended | _is_end(best, ends)
        unread = token if use_cache else torch.cat([unread, token], dim=1)
        if not whole_length and bool(ended.all()):
            break
    return written


def pad_token_of(config: Any) -> int:
    """What stands in an input where nothing counts: the configuration's padding token, 0 where it names none."""
    pad = getattr(config, "pad_token_id", None)
    return 0 if pad is None else int(pad)


def _best(logits: Float[Tensor, "batch 1 words"]) -> Int[Tensor, "batch 1"]:
    # a sum is finite where all are, but for an overflow that no head comes near; it costs no mask of the logits' size
    finite = torch.isfinite(logits.sum(dim=-1, dtype=torch.float32))
    return logits.argmax(dim=-1).masked_fill(~finite, NOT_FINITE)


def _is_end(token: Int[Tensor, "batch 1"], ends: Sequence[int]) -> Bool[Tensor, "batch 1"]:
    ended = token == NOT_FINITE
    for end in ends:
        ended = ended | (token == end)
    return ended
