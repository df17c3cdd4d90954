"""What is found by structure is run on small batches, to see that it is what it was taken for: the part that all kinds share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from sherl.backbones.backbone import Backbone, Batch
from sherl.backbones.structure.blocks import FAILURES, Tried, short
from sherl.errors import UnsupportedBackboneError
from sherl.insertion import BlockCall, block_calls
from sherl.shapes import Int


class Running:
    """A backbone that was found by structure, and the batch that it is tried with."""

    def __init__(self, backbone: Backbone, tried: Tried) -> None:
        self.backbone = backbone
        self._tried = tried

    def refused(self, why: str) -> UnsupportedBackboneError:
        """The error for what turned out to be otherwise than it was taken for."""
        backbone = self.backbone
        return self._tried.refused(f"{why} (found: {backbone.block_path(0)} and {backbone.depth - 1} more)")

    @cached_property
    def _words(self) -> Int[Tensor, " words"]:
        """The upper half of the vocabulary, without special tokens."""
        config = self.backbone.config
        special: set[int] = set()
        for name, value in config.to_dict().items():
            if name.endswith("_token_id"):
                special.update(one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int))
        plain = [word for word in range(self._tried.words(config)) if word not in special]
        if len(plain) < 4:
            raise self.refused(f"it knows {len(plain)} words beside special tokens, too few to try it with")
        return torch.tensor(plain[len(plain) // 2 :], device=self.backbone.device)

    def token_ids(self, rows: int, tokens: int) -> Int[Tensor, "rows tokens"]:
        """Words that are no special tokens, the same in each call."""
        longest = self.backbone.max_tokens
        if longest is not None and longest < tokens:
            raise self.refused(f"it takes {longest} tokens at most, and {tokens} are what it is tried with")
        words = self._words
        generator = torch.Generator().manual_seed(0)
        return words[torch.randint(len(words), (rows, tokens), generator=generator).to(words.device)]

    def others(self, ids: Int[Tensor, ...]) -> Int[Tensor, ...]:
        """Another word in place of each."""
        words = self._words
        return words[(torch.searchsorted(words, ids.contiguous()) + 1) % len(words)]

    def encoded(self, what: str, batch: Batch) -> Tensor:
        """The last hidden state of one more batch."""
        return self.ran(what, lambda: self.backbone.encode(batch))

    def ran(self, what: str, run: Callable[[], Tensor]) -> Tensor:
        """What ``run`` gives; somebody else's code may fail in many ways, each of which refuses the model."""
        try:
            return run()
        except FAILURES as error:
            raise self.refused(f"{what} does not run through it: {short(error)}") from error

    def through_blocks(self, what: str, batch: Batch, shape: tuple[int, ...] | None) -> Tensor:
        """The last hidden state, where each block ran once, in order, on hidden states of one shape, [batch, tokens, width];
        shape: which."""
        backbone = self.backbone
        calls: Counter[int] = Counter()
        shapes: list[tuple[int, ...]] = []

        def on_call(layer: int, call: BlockCall) -> None:
            calls[layer] += 1
            shapes.append(tuple(call.hidden.shape))

        with block_calls(dict(enumerate(backbone.blocks)), on_call):
            hidden = self.ran(what, lambda: backbone.encode(batch))
        if list(calls.items()) != [(layer, 1) for layer in range(backbone.depth)]:
            raise self.refused("its blocks do not run once each, one after the other")
        wanted = tuple(hidden.shape) if shape is None else shape
        if odd := sorted({found for found in [*shapes, tuple(hidden.shape)] if found != wanted}):
            raise self.refused(
                f"hidden states of {what} are {odd[0]}, and [batch, tokens, width] {wanted} was expected"
            )
        return hidden

    def require_read(self, batch: Batch, hidden: Tensor) -> None:
        """What a method puts in place of a block's input must reach the last hidden state."""

        def replace(_layer: int, call: BlockCall) -> None:
            call.hidden = call.hidden.flip(2)

        last = self.backbone.depth - 1
        with block_calls({last: self.backbone.blocks[last]}, replace):
            changed = self.encoded("a replaced hidden state", batch)
        if torch.allclose(changed, hidden):
            raise self.refused("what is put in place of its last block's input does not reach the last hidden state")
