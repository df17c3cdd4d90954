"""A pretrained model without head, seen as what every method needs: blocks, widths, a way to encode and to pool."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from sherl.backbones import fingerprint as fingerprints
from sherl.backbones import rotary
from sherl.backbones.families import Family, Stack
from sherl.backbones.padding import PromptPlaces
from sherl.backbones.paths import matching
from sherl.backbones.writing import Writing
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.forms import TensorForm
from sherl.insertion import BlockCall, block_calls
from sherl.registry import Registry
from sherl.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from sherl.backbones.light import Without

# text: input_ids and attention_mask int64 [batch, tokens], perhaps token_type_ids, decoder_input_ids; images: pixel_values
# float32 [batch, channels, height, width]; speech: input_features float32 [batch, bins, frames]; perhaps labels, and stored
# hidden states features.<stack>.<n> (sherl.features)
Batch: TypeAlias = Mapping[str, Tensor]


class Backbone(Writing):
    """A pretrained model as it is; kinds (encoder, decoder, encoder-decoder, vision, cnn, …) are subclasses, registered in
    :data:`KINDS`.

    It is in evaluation mode; a method is put on it with ``config.apply(backbone, seed=...)`` and taken off again with
    ``remove()`` of what that gives.

    model: the model of transformers; of a kind that writes text with its language head, else without head.
    config: its configuration. layout: its family's row.
    source: the folder or hub id that it was loaded from; None if it was made from a configuration.
    blocks: those of all stacks, in the order in which they run.
    importances: of weights, by their names in the model, where somebody measured them (:mod:`sherl.fisher`).
    notes: what a person should know of how the model was taken, e.g. that its row was found by structure.
    without: what of the model was left out, as stored hidden states stand in for it (:mod:`sherl.backbones.light`); None of a
        whole one. left_out_count: how many parameters that were.
    """

    def __init__(self, model: Any, layout: Family, *, source: str | None = None, folder: Path | None = None) -> None:
        self.model: Any = model
        self.config: Any = model.config
        self.layout: Family = layout
        self.source = source
        self.notes: tuple[str, ...] = ()
        self.method_name: str | None = None  # of the method that is on it now
        self.importances: Mapping[str, Tensor] | None = None
        self.without: Without | None = None
        self.left_out_count = 0
        self._places = blocks_of(model, layout)
        self.blocks: tuple[nn.Module, ...] = tuple(block for _, _, block in self._places)
        self._folder = folder
        self._fingerprint: str | None = None

    def modules_of(self, layer: int, pattern: str) -> list[str]:
        """Paths inside a block (0-based, over all stacks) that a path or pattern of its stack names."""
        return matching(self.blocks[layer], pattern)

    def stack_of(self, layer: int) -> Stack:
        """The stack that a block (0-based, over all stacks) belongs to."""
        return self._places[layer][0]

    def block_path(self, layer: int) -> str:
        """Where a block is inside the model."""
        return self._places[layer][1]

    def final_norm_of(self, stack: Stack) -> nn.Module | None:
        """The norm behind a stack's last block; None where there is none."""
        if stack.final_norm is None:
            return None
        # a configuration may leave it out: its place is None then
        norm: nn.Module | None = attrgetter(stack.final_norm)(self.model)
        return norm

    @property
    def last_stack(self) -> range:
        """The blocks of the stack that runs last: all of an encoder, the decoder's of an encoder-decoder. A method that
        freezes early blocks may begin at any of these but the first; numbers of its settings count in here."""
        last = self._places[-1][0]
        return range(sum(stack is not last for stack, _, _ in self._places), self.depth)

    @property
    def stacks(self) -> dict[str, range]:
        """The blocks of each stack, counted over the whole backbone, by its name, in the order in which they run: ``blocks``,
        or of an encoder-decoder ``encoder`` and ``decoder``."""
        last = self.last_stack
        spans = [last] if last.start == 0 else [range(last.start), last]
        return dict(zip(stack_names_of(self.layout), spans, strict=True))

    @property
    def family(self) -> str:
        """Name of the family, e.g. ``bert``; the row itself is ``layout``."""
        return self.layout.name

    @property
    def depth(self) -> int:
        """Number of blocks, of all stacks together."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """D, the width of the last hidden state and of what :meth:`pool` gives."""
        return int(self.config.hidden_size)

    def width_of(self, layer: int) -> int:
        """Width of a block's input (0-based, over all stacks)."""
        del layer
        return self.width

    @property
    def has_stages(self) -> bool:
        """Whether blocks differ in width."""
        return any(self.width_of(layer) != self.width_of(0) for layer in range(self.depth))

    @property
    def hidden_width(self) -> int:
        """Width of the last hidden state, which :meth:`encode` gives; :meth:`pool` may bring it to another."""
        return self.width if self.has_stages else self.width_of(self.depth - 1)

    @property
    def output_width(self) -> int:
        """Width of what the last block gives, before whatever follows the blocks."""
        return self.hidden_width

    def is_causal(self, layer: int) -> bool:
        """Whether a position of this block (0-based, over all stacks) sees none that comes later."""
        del layer
        return False

    def as_tokens(self, hidden: Tensor, like: Tensor) -> Float[Tensor, "batch tokens own_width"]:
        """A block's input, of its own width, as one vector for each position of ``like``, another block's input.

        Where all blocks have the same positions it is the hidden state itself; feature maps are brought to ``like``'s size.
        """
        del like
        return hidden

    def as_hidden(self, tokens: Float[Tensor, "batch tokens width"], like: Tensor) -> Tensor:
        """Vectors for each position of ``like`` in the form of ``like``, a block's input."""
        del like
        return tokens

    @property
    def max_tokens(self) -> int | None:
        """The longest input, in tokens; None where positions are relative or rotary and nothing bounds it."""
        has_table = self.layout.positions in ("absolute", "from_padding")
        if not has_table and not getattr(self.config, "position_biased_input", False):  # DeBERTa may have both
            return rotary.longest(self.config)
        return int(getattr(self.config, self.layout.position_table)) - self.layout.position_offset

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

    def keep(self, batch: Batch) -> Bool[Tensor, "batch tokens"]:
        """Which positions of the first block's input count; the others are padding."""
        ids, mask = batch["input_ids"], batch.get("attention_mask")
        return torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.to(torch.bool)

    def inputs_form(self, rows: int, *, tokens: int, image_size: int | None = None) -> dict[str, TensorForm]:
        """Shapes and types of what :meth:`encode` reads: texts of this many tokens, images of this many pixels a side (None:
        as many as the model was made for)."""
        del image_size
        names = ["input_ids", "attention_mask"] + (["token_type_ids"] if self.takes_token_types else [])
        return {name: TensorForm((rows, tokens)) for name in names}

    @property
    def takes_token_types(self) -> bool:
        """Whether it reads ``token_type_ids``."""
        return False

    def pooled_mask(self, batch: Batch) -> Int[Tensor, "batch tokens"]:
        """1 for what of the last hidden state :meth:`pool` is to take, 0 for padding."""
        return self.keep(batch).to(torch.int64)

    @contextmanager
    def prompted(self, batch: Batch, vectors: Float[Tensor, "prompts width"]) -> Iterator[Callable[[Tensor], Tensor]]:
        """Passes of this batch inside have these vectors in front of the first block's input, behind the embeddings;
        where a row has padding in front, between that and its first token.

        Every block is given the masks and positions for both. Gives what cuts the vectors off the last hidden state.
        """
        tokens, places = self.keep(batch), PromptPlaces(batch, len(vectors))
        keep = places.join(tokens.new_ones((tokens.shape[0], len(vectors))), tokens)
        behind_encoder = self.last_stack.start > 0  # what comes last is a decoder's then
        arguments: list[dict[str, Any]] = []

        def on_call(layer: int, call: BlockCall) -> None:
            if layer == 0:
                prompts = vectors.to(call.hidden.dtype)[None].expand(tokens.shape[0], -1, -1)
                call.hidden = places.join(prompts, call.hidden)
                arguments[:] = self.prompt_arguments(keep, call.hidden)
            for name, value in arguments[layer].items():
                call.set(name, value)

        try:
            with block_calls(dict(enumerate(self.blocks)), on_call):
                yield lambda last: self.cut_prompts(last if behind_encoder else places.in_front(last), len(vectors))
        finally:
            arguments.clear()

    @abstractmethod
    def cut_prompts(self, hidden: Float[Tensor, "batch keys width"], count: int) -> Float[Tensor, "batch tokens width"]:
        """The last hidden state without ``count`` prompts that stood in front of the first block's input."""

    @abstractmethod
    def prompt_arguments(
        self, keep: Bool[Tensor, "batch keys"], hidden: Float[Tensor, "batch keys width"]
    ) -> list[dict[str, Any]]:
        """What each block must be given when the first stack's input is ``hidden``, which has prompts in front.

        Raises:
            UnsupportedBackboneError: blocks of this family cannot carry prompts.
        """

    @property
    @abstractmethod
    def no_late_prompts(self) -> str | None:
        """Why prompts cannot enter at a late block; None where they can."""

    @property
    def no_input_prompts(self) -> str | None:
        """Why prompts cannot enter at the first block's input; None where they can."""
        return None


def blocks_of(model: nn.Module, layout: Family) -> list[tuple[Stack, str, nn.Module]]:
    """All blocks of a model in the order in which they run, each with its stack's row and its path.

    Raises:
        UnsupportedBackboneError: there is no list of blocks where the row says.
    """
    modules = dict(model.named_modules())
    found = []
    for stack in layout.stacks:
        lists = matching(model, stack.blocks)
        for path in lists or [stack.blocks]:
            blocks = modules.get(path)
            if not isinstance(blocks, nn.ModuleList) or len(blocks) == 0:
                raise UnsupportedBackboneError(
                    f"The row of {layout.name!r} says that its blocks are at {stack.blocks!r}; there is no list "
                    "of blocks there."
                )
            found += [(stack, f"{path}.{index}", block) for index, block in enumerate(blocks)]
    return found


def stack_names_of(layout: Family) -> list[str]:
    """What the stacks of a family are called, in the order in which they run."""
    return ["blocks"] if len(layout.stacks) == 1 else ["encoder", "decoder"]


KINDS: Registry[type[Backbone]] = Registry("kind of backbone")
"""All kinds by the name that stands in a row's ``kind``."""
