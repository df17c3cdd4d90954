"""What a family's row says, for each kind, and the registry of all rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sherl.backbones import masks
from sherl.backbones.families.early import Early
from sherl.registry import Registry

Positions = Literal["absolute", "from_padding", "relative", "rotary"]


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Blocks of a model that run one after the other.

    blocks: path of their list inside the model; where stages hold a list each, with ``*`` in the stage's place. Inside a
    block, by their paths there (a pattern of :mod:`sherl.backbones.paths` may name several): lora_targets, linear layers of the
    attention that LoRA adapts (query and value, as in the LoRA paper; cross-attention included; of a convolutional network
    its convolutions); attention_outputs, the last linear layer of each attention; feed_forward_output, the block's last
    linear layer (of a convolutional network the norm behind the last convolution). A bottleneck adapter acts on the output
    of these. final_norm: path, inside the model, of the norm behind the last block; None where there is none. early: what
    stands in for early blocks where hidden states are stored; None: nothing can, and all blocks always run.
    """

    blocks: str
    lora_targets: tuple[str, ...]
    attention_outputs: tuple[str, ...]
    feed_forward_output: str
    final_norm: str | None = None
    early: Early | None = None


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """How the models of one family are laid out; each kind has a subclass with what else it asks of a row.

    name: the ``model_type`` of the configuration.
    positions: absolute (a table, counted from the first token), from_padding (a table, counted from the first token
        that is no padding), relative, or rotary.
    position_offset: how many rows of the position table, as the configuration counts them, stand before the first
        token's.
    attention: attention implementation asked of transformers; None for models without a choice.
    model_class: name of the class in transformers; None for the one that belongs to the configuration.
    pooler: whether the class takes ``add_pooling_layer`` (the pooler is left out: nobody reads it).
    made_of_values: whether the class looks at values of tensors while a model is made, which fake tensors do not have.
    settings: what the configuration is given before the model is made.
    fixed: paths of parameters that are computed by a rule and never learnt (a table of sinusoids).
    beside_blocks: paths or patterns of modules outside the blocks, from the first of them on, that the last hidden state is
        computed with (tables of relative positions, what lies between stages): a ladder's side network trains its own. side_settings: what such a network's configuration has otherwise than the
        backbone's, beside its divided widths.
    position_table: the setting that says how many positions a table has.
    no_features: why stored hidden states cannot stand in for early blocks, where a stack's ``early`` is None.
    found: what was found of a model whose row was made by structure (:mod:`sherl.backbones.structure`); None of a written one.
    """

    kind: ClassVar[str]
    """Name of the kind: which class a model of this family becomes (:data:`sherl.backbones.KINDS`)."""

    name: str
    positions: Positions = "absolute"
    position_offset: int = 0
    attention: Literal["sdpa", "eager"] | None = "sdpa"
    model_class: str | None = None
    pooler: bool = False
    made_of_values: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    beside_blocks: tuple[str, ...] = ()
    side_settings: Mapping[str, Any] = field(default_factory=dict)
    position_table: str = "max_position_embeddings"
    no_features: str = "its row does not say what could stand in for its early blocks"
    found: str | None = None

    @property
    @abstractmethod
    def stacks(self) -> tuple[Stack, ...]:
        """Its stacks of blocks in the order in which they run."""


@dataclass(frozen=True, kw_only=True)
class OneStackFamily(Family):
    """A family of a kind with one stack.

    blocks, lora_targets, attention_outputs, feed_forward_output, final_norm, early: as in :class:`Stack`; without
        attention_outputs adapters can stand behind the feed-forward part only.
    """

    blocks: str
    lora_targets: tuple[str, ...]
    feed_forward_output: str
    attention_outputs: tuple[str, ...] = ()
    final_norm: str | None = None
    early: Early | None = None

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return (
            Stack(
                blocks=self.blocks,
                lora_targets=self.lora_targets,
                attention_outputs=self.attention_outputs,
                feed_forward_output=self.feed_forward_output,
                final_norm=self.final_norm,
                early=self.early,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class EncoderFamily(OneStackFamily):
    """A family of the encoder kind: one stack.

    masks: makes the ``attention_mask`` argument of the model out of what may be attended to.
    prompts: makes the arguments of blocks whose input has prompts in front; None: the family cannot carry any,
        ``no_prompts`` says why.
    token_types: whether the model takes ``token_type_ids``.
    causal: whether a token sees none behind it.
    pooling: ``mean``: of all tokens, as sentence encoders pool; ``last``: the last token that counts; ``end``: the first
        end token (``eos_token_id``), as CLIP pools.
    pooled_by: path of a linear layer that the pooled vector goes through; None where there is none.
    hidden: computes the last hidden state where the model's own forward would waste memory; None: its own forward.
    """

    kind: ClassVar[str] = "encoder"

    masks: Callable[[Any, Tensor, torch.dtype], masks.Mask]
    prompts: Callable[[nn.Module, Any, Tensor, Tensor], list[dict[str, Any]]] | None = None
    no_prompts: str = "its row has no rule for the arguments of blocks that see prompts"
    token_types: bool = False
    causal: bool = False
    pooling: Literal["mean", "last", "end"] = "mean"
    pooled_by: str | None = None
    pooler: bool = True
    hidden: Callable[[nn.Module, dict[str, Any]], Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderFamily(Family):
    """A family of the encoder-decoder kind: an encoder that is read once, a decoder that cross-attends to it.

    encoder, decoder: their stacks. logits: vocabulary logits of the model (with its language head) and hidden states.
    untied_head: whether published checkpoints of a configuration hold a head of their own beside the embeddings.
    no_prompts: why the encoder's blocks cannot carry prompts; None where they can.
    frames: of an encoder that hears (it reads ``input_features`` [batch, bins, frames] instead of ``input_ids``): how many
        frames the model takes, always, by its configuration; None of one that reads.
    """

    kind: ClassVar[str] = "encoder-decoder"

    encoder: Stack
    decoder: Stack
    logits: Callable[[Any, Tensor], Tensor]
    untied_head: Callable[[Any], bool] = lambda _config: False
    no_prompts: str | None = None
    frames: Callable[[Any], int] | None = None

    @property
    def stacks(self) -> tuple[Stack, ...]:
        return (self.encoder, self.decoder)


def _plain_logits(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(hidden)
    return logits


def _plain_hidden(model: Any, inputs: dict[str, Any]) -> Tensor:
    hidden: Tensor = model.base_model(**inputs).last_hidden_state
    return hidden


@dataclass(frozen=True, kw_only=True)
class DecoderFamily(OneStackFamily):
    """A family of the decoder kind: one stack, each position of which sees itself and those before it.

    final_norm: may be None in a model whose configuration leaves it out.
    windows: which blocks see no further back than ``sliding_window`` of the configuration, where that is set: none, all,
        or by_type (``layer_types`` says it, and the model takes one mask for each type).
    hidden: last hidden state, ``config.hidden_size`` wide, of the model and what its decoder is given.
    logits: vocabulary logits of the model and such hidden states.
    """

    kind: ClassVar[str] = "decoder"

    final_norm: str
    windows: masks.Windows = "none"
    hidden: Callable[[Any, dict[str, Any]], Tensor] = _plain_hidden
    logits: Callable[[Any, Tensor], Tensor] = _plain_logits


@dataclass(frozen=True, kw_only=True)
class VisionFamily(OneStackFamily):
    """A family of the vision kind: an image as a stream of patches, one stack.

    pooling: ``class``: the class token, which is the first; ``mean``: of all positions.
    front: how many positions stand in front of the patches.
    final_norm: may be None in a model that has none.
    sizes: how images of another size than the position table's are taken: ``argument`` (the model interpolates the table
        when it is told to), ``any`` (it does so by itself, or has no table), ``own`` (not at all).
    norm_in_model: whether the model's own forward ends in ``final_norm``; CLIP norms its class token alone, and here the
        norm goes over all positions.
    widths: of each block's input, from the model; None where all are ``hidden_size``.
    no_prompts: why blocks cannot carry prompts; None where they can.
    """

    kind: ClassVar[str] = "vision"

    final_norm: str | None
    pooling: Literal["class", "mean"]
    front: int
    sizes: Literal["argument", "any", "own"]
    norm_in_model: bool = True
    widths: Callable[[Any], Sequence[int]] | None = None
    no_prompts: str | None = None


@dataclass(frozen=True, kw_only=True)
class ConvolutionalFamily(OneStackFamily):
    """A family of the cnn kind: blocks (stages, or the blocks of a flat list) whose hidden states are feature maps.

    stem: path of what makes the first block's input of an image.
    widths: channels of each block's input and, at the end, of the model's last feature map; from the model.
    behind_blocks: path of a convolution between the last block and the last feature map; None where there is none.
    pooled_norm: path of a norm that the average over the last map goes through; None where there is none.
    """

    kind: ClassVar[str] = "cnn"

    stem: str
    widths: Callable[[Any], Sequence[int]]
    behind_blocks: str | None = None
    pooled_norm: str | None = None
    attention: Literal["sdpa", "eager"] | None = None


@dataclass(frozen=True, kw_only=True)
class CrossModalFamily(OneStackFamily):
    """A family of the cross-modal kind: a text's tokens and, behind them, an image's positions in one stack.

    image: what of a batch holds the image. needs: what else a batch must hold.
    regions: how many positions of the stream are the image's, from the model and a batch.
    no_prompts: why blocks cannot carry prompts; None where they can.
    hidden: the last hidden state, of the model, a batch and an additive mask over all positions.
    """

    kind: ClassVar[str] = "cross-modal"

    image: Literal["pixel_values", "visual_embeds", "visual_feats"]
    needs: tuple[str, ...] = ()
    no_prompts: str | None = None
    regions: Callable[[Any, dict[str, Tensor]], int]
    hidden: Callable[[Any, dict[str, Tensor], Tensor], Tensor]


FAMILIES: Registry[Family] = Registry("backbone family")
