"""Padding in front of a row's first token: what it must not move, and what is put right where there is any.

Tables of positions are read from the first place of an input on, and prompts enter in front of that place. Where padding
stands there, a token would get another row of the table, or be further from the prompts, than with padding on the right.
Batches without such padding are left as they are, to the bit; that they are costs one look at a column of the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sherl.backbones.families import Family
from sherl.backbones.fingerprint import has_bytes
from sherl.backbones.writing import pad_token_of
from sherl.errors import SpecError
from sherl.shapes import Bool, Float, Int

_BESIDE_WORDS = ("position_embeddings", "position_embedding")
TABLES = {"encoder": _BESIDE_WORDS, "cross-modal": _BESIDE_WORDS, "encoder-decoder": ("embed_positions",)}
"""What the tables are called whose rows are added to the tokens' embeddings, counted from the first place of the input; by kind
(``embed_positions`` of an encoder is RoFormer's, which turns queries and keys by them)."""


def padding_in_front(batch: Mapping[str, Tensor]) -> Int[Tensor, "batch 1"] | None:
    """How many places of padding stand in front of each row's first token; None where no row has any.

    Of tensors without values (meta, fake) none is taken to: memory is foretold of batches that are padded on the right.
    """
    mask = batch.get("attention_mask")
    if mask is None or not has_bytes(mask) or bool(mask[:, :1].all()):
        return None
    before = (mask != 0).to(torch.uint8).argmax(dim=1, keepdim=True)
    return before if bool(before.any()) else None  # a row of padding alone has none in front of a token


@contextmanager
def counted_from_first_token(model: Any, family: Family, batch: Mapping[str, Tensor]) -> Iterator[None]:
    """Around the pass of a model, or of its encoder, that reads this batch: each row's first token has the first row of its
    table of positions, and so on; padding in front has the first too.

    Raises:
        SpecError: there is padding in front of a row, and the model counts positions in a way that is not known.
    """
    from_first_place = family.positions == "absolute" or getattr(model.config, "position_biased_input", False)
    before = padding_in_front(batch) if from_first_place and not _reads_padding(family) else None
    if before is None:
        yield
        return
    tables = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in TABLES[family.kind]
    ]
    if family.positions == "absolute" and not tables:
        raise SpecError(
            f"The batch has padding on the left ({int((before > 0).sum())} of {len(before)} rows), and it is not known how "
            f"a {family.name} model counts positions there: pad on the right (tokenizer.padding_side = 'right')."
        )
    places = torch.arange(batch["attention_mask"].shape[1], device=before.device)
    read = _reading((places - before).clamp(min=0))
    with ExitStack() as stack:
        for table in tables:
            stack.callback(table.register_forward_hook(read).remove)
        yield


def ids_to_count_by(family: Family, config: Any, batch: Mapping[str, Tensor]) -> Int[Tensor, "batch tokens"]:
    """The ``input_ids``; where positions are counted from the ids that are no padding and a row has padding in front, with the
    padding token wherever the mask says padding."""
    ids = batch["input_ids"]
    if not _reads_padding(family) or padding_in_front(batch) is None:
        return ids
    return ids.masked_fill(batch["attention_mask"] == 0, pad_token_of(config))


def _reads_padding(family: Family) -> bool:
    # a table with rows before the first token's has them for padding, which it knows by the ids
    return family.positions == "from_padding" or family.position_offset > 0


def _reading(positions: Int[Tensor, "batch tokens"]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that makes of the table's rows from the first on, alike for every row of the batch, those of these positions."""

    def read(_table: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        rows = output if output.ndim == 2 else output[0]
        # stored hidden states, of another stack perhaps, may stand in for a table whose rows nobody reads then
        return rows[positions] if len(rows) == positions.shape[1] else output

    return read


class PromptPlaces:
    """Where ``count`` prompts stand among the places of a batch's tokens: right before each row's first token, so that
    padding in front of that does not come between."""

    def __init__(self, batch: Mapping[str, Tensor], count: int) -> None:
        self._count = count
        self._before = padding_in_front(batch)

    def join(
        self, prompts: Tensor, tokens: Float[Tensor, "batch tokens *width"] | Bool[Tensor, "batch tokens"]
    ) -> Tensor:
        """Prompts [batch, count, ...] and what stands at the tokens' places, as one."""
        joined = torch.cat([prompts, tokens], dim=1)
        if self._before is None:
            return joined
        places = torch.arange(joined.shape[1], device=joined.device)
        behind = self._before + self._count
        places = torch.where(
            places < self._before, places + self._count, torch.where(places < behind, places - self._before, places)
        )
        return _taken(joined, places)

    def in_front(self, joined: Tensor) -> Tensor:
        """What :meth:`join` gave, with the prompts in front of everything."""
        if self._before is None:
            return joined
        places = torch.arange(joined.shape[1], device=joined.device)
        own = places - self._count  # of a token among the tokens
        of_tokens = torch.where(own < self._before, own, places)
        return _taken(joined, torch.where(own < 0, places + self._before, of_tokens))


def _taken(values: Tensor, places: Int[Tensor, "batch places"]) -> Tensor:
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, places]
